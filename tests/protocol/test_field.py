"""protocol.field against Python integers: Goldilocks and toy primes, edge values, canonical bytes."""

from __future__ import annotations

import numpy as np
import pytest

from protocol.errors import VerificationError
from protocol.field import _FEW, GOLDILOCKS, Ext, Field, small_field
from prover.backend.reference import ReferenceBackend

FIELDS = [GOLDILOCKS, small_field(97), small_field(12289), small_field(2**31 - 1)]


def values(f: Field, count: int = 40) -> list[int]:
    rng = np.random.default_rng(3)
    edges = [0, 1, 2, f.p - 1, f.p - 2, f.p // 2, f.p - 2**32, 2**32 - 1, 2**32, 2**63]
    return [x % f.p for x in edges + rng.integers(0, 2**63, count).tolist()]


def scalars(f: Field) -> list[Ext]:
    v = values(f)
    return [f.ext(a, b) for a, b in zip(v, v[::-1], strict=True)]


def karray(scalars_: list[Ext]) -> np.ndarray:
    return np.stack([s.array() for s in scalars_], axis=1)


@pytest.mark.parametrize("f", FIELDS, ids=lambda f: str(f.p))
def test_array_operations_are_those_of_integers(f: Field) -> None:
    v = values(f)
    a = f.array(v)
    pairs = (
        (f.add, lambda x, y: x + y),
        (f.sub, lambda x, y: x - y),
        (f.mul, lambda x, y: x * y),
    )
    for array_op, integer_op in pairs:
        table = array_op(a[:, None], a[None, :])
        assert table.dtype == np.uint64
        assert table.tolist() == [[integer_op(x, y) % f.p for y in v] for x in v]
    assert int(f.sum(a)) == sum(v) % f.p
    assert f.powers(3, 13).tolist() == [pow(3, k, f.p) for k in range(13)]
    assert int(f.dot(a, a)) == sum(x * x for x in v) % f.p


def test_goldilocks_reduction_at_its_edges() -> None:
    """Words at which a borrow or carry begins: lo = hi >> 32, a sum of exactly 2^64, a result of exactly p."""
    f, half = GOLDILOCKS, 2**32
    words = [0, 1, 2, half - 2, half - 1, half, half + 1, 2 * half - 2, f.p - half, f.p - 2, f.p - 1]
    pairs = [(lo, hi) for hi in words for lo in [*words, f.p, f.p + 1, 2**64 - 1, hi >> 32, -(hi % half) * (half - 1) % 2**64]]
    lo, hi = (np.array(v, dtype=np.uint64) for v in zip(*pairs, strict=True))
    assert Field._reduce128(lo, hi).tolist() == [(h * 2**64 + x) % f.p for x, h in pairs]


@pytest.mark.parametrize("n", [1, 2, _FEW - 1, _FEW, _FEW + 1, 4 * _FEW, 4 * _FEW + 1])
def test_few_and_many_entries_are_multiplied_alike(n: int) -> None:
    """Small products are made by Python's integers, larger ones by NumPy; so are those that broadcast."""
    f, rng = GOLDILOCKS, np.random.default_rng(n)
    a, b = (rng.choice(np.array([0, 1, f.p - 1, f.p - 2, 2**32, 2**63], dtype=np.uint64), (2, n)) for _ in range(2))
    wanted = [int(x) * int(y) % f.p for x, y in zip(a[0], b[0], strict=True)]
    assert f.mul(a[0], b[0]).tolist() == wanted and f.mul(a[0], b[0, :1]).tolist() == [int(x) * int(b[0, 0]) % f.p for x in a[0]]
    x, y = ([Ext(int(c0), int(c1), f) for c0, c1 in z.T] for z in (a, b))
    assert [Ext(*map(int, z), f) for z in f.kmul(a, b).T] == [u * v for u, v in zip(x, y, strict=True)]
    table = f.kmul(a.reshape(2, n, 1), b.reshape(2, 1, n))
    assert table.dtype == np.uint64 and table.shape == (2, n, n)
    assert all(Ext.from_array(f, table[:, i, j]) == x[i] * y[j] for i in range(n) for j in range(n))


@pytest.mark.parametrize("f", FIELDS, ids=lambda f: str(f.p))
def test_embedding_signed_integers(f: Field) -> None:
    x = np.array([0, 1, -1, 2**62, -(2**62), 2**63 - 1, -(2**63)])
    assert f.embed(x).tolist() == [int(i) % f.p for i in x]
    assert f.embed(x.reshape(7, 1)[::2]).shape == (4, 1)


@pytest.mark.parametrize("f", FIELDS, ids=lambda f: str(f.p))
def test_constants(f: Field) -> None:
    assert pow(f.w, (f.p - 1) // 2, f.p) == f.p - 1  # w is not a square, so K is a field
    assert (f.p - 1) % 2**f.two_adicity == 0 and ((f.p - 1) >> f.two_adicity) % 2 == 1
    for k in range(1, min(f.two_adicity, 6) + 1):
        assert pow(f.root_of_unity(k), 2 ** (k - 1), f.p) == f.p - 1
        assert pow(f.root_of_unity(k), 2, f.p) == f.root_of_unity(k - 1)
    with pytest.raises(ValueError, match="root of unity"):
        f.root_of_unity(f.two_adicity + 1)


@pytest.mark.parametrize("f", FIELDS, ids=lambda f: str(f.p))
def test_extension_arrays_are_extension_scalars(f: Field) -> None:
    s = scalars(f)
    t = s[3:] + s[:3]
    a, b = karray(s), karray(t)
    assert np.array_equal(f.kmul(a, b), karray([x * y for x, y in zip(s, t, strict=True)]))
    assert np.array_equal(f.add(a, b), karray([x + y for x, y in zip(s, t, strict=True)]))
    assert np.array_equal(f.kmulf(a, b[0]), karray([x * int(y) for x, y in zip(s, b[0], strict=True)]))
    total = f.zero
    for x, y in zip(s, t, strict=True):
        total = total + x * y
    assert Ext.from_array(f, f.kdot(a, b)) == total


@pytest.mark.parametrize("f", FIELDS, ids=lambda f: str(f.p))
def test_scalars(f: Field) -> None:
    x, y = scalars(f)[11], scalars(f)[12]
    assert x * y / y == x and (x - y) + y == x and -x + x == 0 and 3 * x == x + x + x
    assert x / 2 * 2 == x and 1 / x * x == f.one and 5 - x == -(x - 5) and x**-2 * x * x == 1
    assert f.ext(0, 1) * f.ext(0, 1) == f.w
    assert hash(f.ext(1)) == hash(f.one) and f.ext(1, 1) != 1 and not f.zero and bool(f.ext(0, 1))
    with pytest.raises(ZeroDivisionError):
        x / f.zero


@pytest.mark.parametrize("m", [0, 1, 2, 5, 8, 15])
def test_eq_table_by_bits(m: int) -> None:
    """The table of the last variables, doubled variable by variable."""
    f, rng = GOLDILOCKS, np.random.default_rng(m)
    point = rng.integers(0, f.p, (2, m), dtype=np.uint64)
    table = f.lift(np.ones(1, dtype=np.uint64))
    for i in range(m - 1, -1, -1):
        ones = f.kmul(table, point[:, i : i + 1])
        table = np.concatenate([f.sub(table, ones), ones], axis=1)
    assert np.array_equal(f.eq_table(point), table)


def test_eq_table_and_folding() -> None:
    f = GOLDILOCKS
    point = [f.ext(3, 4), f.ext(5, 6), f.ext(7, 8)]
    table = f.eq_table(karray(point))
    for index in range(8):
        expected = f.one
        for i, r in enumerate(point):  # the first variable is the most significant bit
            expected = expected * (r if index >> (2 - i) & 1 else 1 - r)
        assert Ext.from_array(f, table[:, index]) == expected
    a = karray(scalars(f)[:8])
    folded = a
    for r in point:
        folded = ReferenceBackend(f).fold_top(folded, r)
    assert np.array_equal(folded[:, 0], f.kdot(a, table))


@pytest.mark.parametrize("field", [GOLDILOCKS, small_field(97)], ids=["goldilocks", "97"])
@pytest.mark.parametrize("variables", [0, 1, 2, 4, 5, 7])
def test_eq_is_one_at_its_point_and_has_the_first_variable_on_top(variables: int, field: Field) -> None:
    """Small tables and products of small ones, by definition: Π (r_i or 1 − r_i)."""
    rng = np.random.default_rng(variables)
    point = rng.integers(0, field.p, (2, variables), dtype=np.uint64)
    scalars = [Ext.from_array(field, r) for r in point.T]
    table = field.eq_table(point)
    assert table.shape == (2, 1 << variables) and table.flags.c_contiguous
    for index in range(1 << variables):
        expected = field.one
        for i, r in enumerate(scalars):
            expected = expected * (r if index >> (variables - 1 - i) & 1 else 1 - r)
        assert Ext.from_array(field, table[:, index]) == expected
    for corner in (0, (1 << variables) - 1):
        bits = np.array([[corner >> (variables - 1 - i) & 1 for i in range(variables)], [0] * variables], dtype=np.uint64)
        assert np.flatnonzero(field.eq_table(bits)[0]).tolist() == [corner]


def test_canonical_bytes() -> None:
    f = GOLDILOCKS
    a = f.array(values(f))
    assert np.array_equal(f.from_bytes(f.to_bytes(a)), a)
    k = karray(scalars(f))
    assert np.array_equal(f.kfrom_bytes(f.kto_bytes(k)), k)
    x = f.ext(2**63, 5)
    assert x.to_bytes() == bytes([128, *[0] * 14, 5]) and f.ext_from_bytes(x.to_bytes()) == x
    for data in (f.p.to_bytes(8, "big") + bytes(8), bytes(8) + b"\xff" * 8):
        with pytest.raises(VerificationError, match="non-canonical at round"):
            f.ext_from_bytes(data, "round")
    for call in (f.from_bytes, f.kfrom_bytes, f.ext_from_bytes):
        with pytest.raises(VerificationError, match="length"):
            call(bytes(17))
    with pytest.raises(VerificationError, match="non-canonical"):
        small_field(97).from_bytes((97).to_bytes(8, "big"))


def test_small_fields_must_be_prime() -> None:
    for p in (2, 4, 91, 2**31 + 11):
        with pytest.raises(ValueError, match="prime"):
            small_field(p)


def test_the_first_word_that_is_not_canonical_is_named() -> None:
    for words, index in (([1, GOLDILOCKS.p], 1), ([GOLDILOCKS.p - 1, 5, GOLDILOCKS.p, GOLDILOCKS.p + 1], 2), ([GOLDILOCKS.p + 1], 0)):
        with pytest.raises(VerificationError) as caught:
            GOLDILOCKS.from_bytes(b"".join(w.to_bytes(8, "big") for w in words), "here")
        assert (caught.value.reason, caught.value.where) == ("non-canonical", f"here[{index}]")


@pytest.mark.parametrize("shape", [(1,), (2, 1), (1, 20000), (20000,)])
def test_large_products_broadcast(shape: tuple[int, ...]) -> None:
    """More entries than one block has."""
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 1 << 63, (2, 20000)).astype(np.uint64), rng.integers(0, 1 << 63, shape).astype(np.uint64)
    full = np.broadcast_to(b, a.shape)
    expected = [[x * y % GOLDILOCKS.p for x, y in zip(*rows, strict=True)] for rows in zip(a.tolist(), full.tolist(), strict=True)]
    assert GOLDILOCKS.mul(a, b).tolist() == expected and GOLDILOCKS.mul(b, a).tolist() == expected


@pytest.mark.parametrize(("p", "two_adicity"), [(3, 1), (5, 2), (17, 4), (41, 3), (97, 5), (12289, 12), (2**31 - 1, 1)])
def test_toy_fields_know_their_roots_of_unity(p: int, two_adicity: int) -> None:
    field = small_field(p)
    assert field.two_adicity == two_adicity
    assert pow(field.root_of_unity(two_adicity), 1 << two_adicity - 1, p) == p - 1
    with pytest.raises(ValueError, match="no root"):
        field.root_of_unity(two_adicity + 1)
    assert p > 1000 or len({pow(field.generator, e, p) for e in range(p - 1)}) == p - 1


@pytest.mark.parametrize("size", [8, 24, 40])
def test_half_an_element_of_the_extension_is_refused(size: int) -> None:
    for read in (GOLDILOCKS.kfrom_bytes, GOLDILOCKS.ext_from_bytes):
        with pytest.raises(VerificationError) as caught:
            read(bytes(size), "here")
        assert (caught.value.reason, caught.value.where) == ("length", "here")


@pytest.mark.parametrize("size", [0, 32])
def test_a_scalar_has_sixteen_bytes(size: int) -> None:
    with pytest.raises(VerificationError, match="length at here"):
        GOLDILOCKS.ext_from_bytes(bytes(size), "here")


def test_scalars_stay_canonical() -> None:
    for x in (GOLDILOCKS.ext(5) - 3, GOLDILOCKS.ext(2) - 0, 7 - GOLDILOCKS.ext(5), -GOLDILOCKS.ext(-2)):
        assert (x.c0, x.c1) == (2, 0)
    zero = -GOLDILOCKS.zero
    assert (zero.c0, zero.c1) == (0, 0) and GOLDILOCKS.zero**0 == GOLDILOCKS.one
