"""protocol.code: transforms against the definition, the message comes back, degree and blinding are as stated."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from protocol import code as code_module
from protocol.code import Code, intt, ntt
from protocol.field import GOLDILOCKS, Field, small_field

FIELDS = [GOLDILOCKS, small_field(97), small_field(12289)]


def random(f: Field, *shape: int) -> np.ndarray:
    return np.random.default_rng(5).integers(0, f.p, shape, dtype=np.uint64)


def horner(f: Field, coefs: list[int], x: int) -> int:
    total = 0
    for c in reversed(coefs):
        total = (total * x + c) % f.p
    return total


@pytest.mark.parametrize("f", FIELDS, ids=lambda f: str(f.p))
@pytest.mark.parametrize("n", [1, 2, 4, 8, 16, 32])
def test_transform_is_evaluation_at_roots(f: Field, n: int) -> None:
    coefs = random(f, 2, 3, n)
    root = f.root_of_unity(n.bit_length() - 1)
    out = ntt(f, coefs)
    for a, b in itertools.product(range(2), range(3)):
        assert out[a, b].tolist() == [horner(f, coefs[a, b].tolist(), pow(root, i, f.p)) for i in range(n)]
    assert np.array_equal(intt(f, out), coefs)


@pytest.mark.parametrize("f", FIELDS, ids=lambda f: str(f.p))
@pytest.mark.parametrize("ell,n,blinding", [(4, 16, 3), (8, 16, 8), (2, 32, 9), (1, 4, 2), (8, 8, 0), (4, 32, 0)])
def test_codeword(f: Field, ell: int, n: int, blinding: int) -> None:
    code = Code(f, ell, n, blinding)
    message, rho = random(f, 3, ell), random(f, 3, blinding)
    coefs = code.coefficients(message, rho)
    assert coefs.shape == (3, ell + blinding)
    assert np.array_equal(code.message_of(coefs), message)
    points = code.points(np.arange(n))
    root = f.root_of_unity(ell.bit_length() - 1)
    on_h = {pow(root, i, f.p) for i in range(ell)}
    assert len(set(points.tolist())) == n and not on_h & set(points.tolist())
    codeword = code.encode(message, rho)
    for row in range(3):
        polynomial = coefs[row].tolist()
        assert [horner(f, polynomial, x) for x in points.tolist()] == codeword[row].tolist()
        assert [horner(f, polynomial, pow(root, i, f.p)) for i in range(ell)] == message[row].tolist()
    positions = np.array([0, n - 1, n // 2])
    assert np.array_equal(code.evaluate(coefs, positions), codeword[:, positions])


@pytest.mark.parametrize(("short", "columns"), [(1, 4), (4, 1), (4, 4), (8, 2), (16, 2), (32, 32), (256, 32)])
@pytest.mark.parametrize("length", [1, 2, 3, 8, 9, 23, 32])
def test_evaluation_by_parts(short: int, columns: int, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Polynomials that are one part or many, parts that fill their transforms or do not, the last block of them short."""
    monkeypatch.setattr(code_module, "SHORT", short)
    monkeypatch.setattr(code_module, "COLUMNS", columns)
    for f in (GOLDILOCKS, small_field(97)):
        code, coefs, positions = Code(f, 8, 32, 24), random(f, 2, length), np.array([0, 1, 5, 14, 31])
        values = code.evaluate(coefs, positions)
        assert values.tolist() == [[horner(f, row.tolist(), x) for x in code.points(positions).tolist()] for row in coefs]


def test_evaluation_by_parts_as_long_as_a_real_row_s() -> None:
    """64 parts of 65 coefficients, in two blocks of transforms of 2^8."""
    code = Code(GOLDILOCKS, 1 << 12, 1 << 14, 40)
    message, rho, positions = random(GOLDILOCKS, 1, 1 << 12), random(GOLDILOCKS, 1, 40), np.array([0, 3, 255, 256, 9999, (1 << 14) - 1])
    found = code.evaluate(code.coefficients(message, rho), positions)
    assert np.array_equal(found, code.encode(message, rho)[:, positions])


@pytest.mark.parametrize("f", FIELDS, ids=lambda f: str(f.p))
@pytest.mark.parametrize("ell,n,blinding", [(1, 4, 2), (2, 8, 0), (4, 16, 3), (4, 32, 9), (16, 32, 8)])
def test_the_message_s_extension_at_a_point(f: Field, ell: int, n: int, blinding: int) -> None:
    """Coefficients as they come, not reduced, of a row over K."""
    code, coefs = Code(f, ell, n, blinding), random(f, 2, ell + blinding)
    point = random(f, 2, 2 * (ell.bit_length() - 1))[:, ell.bit_length() - 1 :]
    given = coefs.copy()
    wanted = f.kdot(code.message_of(coefs), f.eq_table(point))
    assert code.message_at(coefs, point).tolist() == wanted.reshape(2, 1).tolist()
    assert np.array_equal(coefs, given)


def test_degree_bound() -> None:
    """The interpolant of a codeword over D has no coefficient beyond ell + blinding."""
    f = GOLDILOCKS
    code = Code(f, 8, 32, 5)
    codeword = code.encode(random(f, 1, 8), random(f, 1, 5))
    shifted = f.mul(intt(f, codeword), f.powers(pow(code.shift, -1, f.p), 32))
    assert not shifted[0, 13:].any() and shifted[0, 12]


def test_extension_rows_and_shorter_codes_share_positions() -> None:
    f = GOLDILOCKS
    long, short = Code(f, 16, 64, 4), Code(f, 4, 64, 2)
    coefs = random(f, 2, 6)  # one row over K as two planes, length of the short code
    positions = np.array([1, 5, 63])
    padded = np.concatenate([coefs, f.zeros(2, 14)], axis=1)
    assert np.array_equal(short.evaluate(coefs, positions), long.evaluate(padded, positions))


def test_blinding_hides_that_many_positions() -> None:
    """Over p = 97: any B positions of a fixed message take every value equally often, B + 1 do not."""
    f = small_field(97)
    code = Code(f, 2, 8, 1)
    rho = np.arange(97, dtype=np.uint64).reshape(97, 1)
    words = code.encode(np.tile(np.array([[5, 9]], dtype=np.uint64), (97, 1)), rho)
    for position in range(8):
        assert sorted(words[:, position].tolist()) == list(range(97))
    other = code.encode(np.tile(np.array([[6, 9]], dtype=np.uint64), (97, 1)), rho)
    assert {tuple(w) for w in words[:, :2].tolist()} != {tuple(w) for w in other[:, :2].tolist()}


@pytest.mark.parametrize("ell,n,blinding", [(3, 8, 0), (4, 12, 0), (8, 8, 1), (4, 16, -1), (4, 64, 0), (0, 4, 0)])
def test_impossible_codes(ell: int, n: int, blinding: int) -> None:
    with pytest.raises(ValueError):
        Code(small_field(97), ell, n, blinding)


def test_roots_of_unity_that_are_the_whole_group() -> None:
    """p = 17: a code of length 16 would need a seventeenth non-zero element."""
    with pytest.raises(ValueError, match="no coset"):
        Code(small_field(17), 4, 16, 2)
    assert Code(small_field(17), 4, 8, 2).length == 6


def test_a_transform_is_no_view_of_its_argument() -> None:
    for n in (1, 2, 4):
        coefs = random(GOLDILOCKS, 2, n)
        assert not np.shares_memory(ntt(GOLDILOCKS, coefs), coefs)
