"""The transcript and the channel: what is sent is absorbed, forms are linear, nothing is read that was not asked for."""

import hashlib
from math import prod
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.channel import Channel, CountingChannel, Form, Transcript, VerifyingChannel
from protocol.errors import VerificationError
from protocol.field import GOLDILOCKS, Ext, small_field
from protocol.schedule.constraints import ConstraintSystem
from protocol.schedule.gkr import prove_fraction_tree
from protocol.schedule.sumcheck import sumcheck
from protocol.schedule.triples import check_triples, lagrange
from prover.argument.channel import ProvingChannel
from prover.backend.reference import ReferenceBackend

F = GOLDILOCKS


def k(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(0, 1 << 63, (2, *shape)).astype(np.uint64)


def pads(seed: int, count: int = 64) -> ProvingChannel:
    rng = np.random.default_rng(seed)
    return ProvingChannel(F, k(rng, count), k(rng, count))


def value(channel: ProvingChannel, form: Form, products: dict[int, Ext] | None = None) -> Ext:
    """What the form is worth, for one who knows the pads."""
    total = form.const
    for (pool, index), coef in form.terms.items():
        cells = channel.tail_values if pool == "tail" else channel.pad_values
        total = total + coef * (products[index] if pool == "product" and products else Ext.from_array(F, cells[:, index]))
    return total


def test_known_answers() -> None:
    """The chain, written out with hashlib."""
    start = hashlib.sha256(b"verilora/transcript/1").digest()
    lengths = (1).to_bytes(8, "big") + b"a" + (3).to_bytes(8, "big") + b"xyz"
    t = Transcript()
    t.absorb("a", b"xyz")
    assert t.state == hashlib.sha256(start + b"\x01" + lengths).digest()
    words = t.draw("w", 5, F.p)
    again = Transcript()
    again.absorb("a", b"xyz")
    assert words == again.draw("w", 5, F.p) and all(0 <= w < F.p for w in words)


@given(st.lists(st.tuples(st.sampled_from(["absorb", "draw"]), st.text(max_size=3), st.binary(max_size=4)), min_size=1, max_size=5),
       st.lists(st.tuples(st.sampled_from(["absorb", "draw"]), st.text(max_size=3), st.binary(max_size=4)), min_size=1, max_size=5))
@settings(max_examples=150, deadline=None)
def test_different_histories_have_different_states(first: list, second: list) -> None:  # type: ignore[type-arg]
    """Types, tags and lengths are part of what is hashed: no two event lists run together."""
    states = []
    for events in (first, second):
        t = Transcript()
        for kind, tag, data in events:
            if kind == "absorb":
                t.absorb(tag, data)
            else:
                t.draw(tag, len(data), 1 << 16)
        states.append(t.state)
    normal = [[(kind, tag, data if kind == "absorb" else len(data)) for kind, tag, data in events] for events in (first, second)]
    assert (states[0] == states[1]) is (normal[0] == normal[1])


@pytest.mark.parametrize("below", [1, 2, 5, 97, 1 << 32, F.p, (1 << 63) + 1, 1 << 64])
def test_draws_are_below_and_spread(below: int) -> None:
    t = Transcript()
    words = t.draw("x", 400, below)
    assert len(words) == 400 and all(0 <= w < below for w in words)
    if below > 1:
        assert abs(sum(words) / 400 / below - 0.5 * (below - 1) / below) < 0.12
    assert below < 1000 or words != t.draw("x", 400, below)


@pytest.mark.parametrize(("below", "limit"), [(3 << 62, 3 << 62), (F.p, F.p), (1 << 64, 1 << 64), (97, ((1 << 64) // 97) * 97)])
def test_words_at_the_edge_of_rejection(below: int, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest multiple of `below` that fits 64 bits is itself too large; the last word under it is not."""
    t, words = Transcript(), [min(limit, (1 << 64) - 1), limit - 1, (1 << 64) - 1, 5]
    t.state = bytes(32)
    block = b"".join(w.to_bytes(8, "big") for w in words)
    monkeypatch.setattr(hashlib, "sha256", lambda data: SimpleNamespace(digest=lambda: block))
    expected = [w % below for w in words if w < limit]
    assert t.draw("w", 6, below) == (expected * 6)[:6]


@given(st.integers(1, 64), st.data())
@settings(max_examples=50, deadline=None)
def test_positions_are_distinct_and_sorted(n: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, n))
    channel = CountingChannel(F)
    channel.bind("salt", data.draw(st.binary(max_size=4)))
    found = channel.positions("p", n, count).tolist()
    assert found == sorted(set(found)) and len(found) == count and found[0] >= 0 and found[-1] < n


def test_every_position_set_occurs() -> None:
    seen = set()
    for i in range(400):
        channel = CountingChannel(F)
        channel.bind("i", i.to_bytes(2, "big"))
        seen.add(tuple(channel.positions("p", 5, 2).tolist()))
    assert len(seen) == 10


@given(st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_forms_are_the_values_they_hide(seed: int) -> None:
    channel, rng = pads(seed), np.random.default_rng(seed + 1)
    secret = [Ext.from_array(F, k(rng)) for _ in range(4)]
    a, b, c, d = channel.secrets("s", 4, lambda: secret)
    sums = a.scale(secret[0]) + b - c + secret[3]
    assert value(channel, sums) == secret[0] * secret[0] + secret[1] - secret[2] + secret[3]
    first, second, square = channel.multiply(a, b), channel.multiply(c, d), channel.multiply(d, d)
    products = {i: Ext.from_array(F, channel.pad_values[:, x]) * Ext.from_array(F, channel.pad_values[:, y])
                for i, (x, y) in enumerate(channel.products)}
    assert value(channel, first, products) == secret[0] * secret[1]
    assert value(channel, second, products) == secret[2] * secret[3]
    assert value(channel, square, products) == secret[3] * secret[3]
    reader = VerifyingChannel(F, bytes(channel.proof))
    assert reader.secrets("s", 4, list) == [a, b, c, d]
    assert reader.transcript.state == channel.transcript.state
    reader.finish()


def test_forms_and_known_numbers() -> None:
    (a,), x = pads(3).secrets("s", 1, lambda: [F.ext(8)]), F.ext(5, 6)
    assert a - x == Form(a.const - x, a.terms) and a + x == Form(a.const + x, a.terms)
    assert (a + a) == a.scale(F.ext(2)) and a - a == Form(F.zero, dict.fromkeys(a.terms, F.zero))


@given(st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_combinations_of_forms_are_sums_of_multiples(seed: int) -> None:
    """Forms that share cells, that have none, and none at all."""
    channel, rng = pads(seed), np.random.default_rng(seed)
    a, b, c = channel.secrets("s", 3, lambda: [F.ext(2), F.ext(3), F.ext(5)])
    forms = [a, b - a, channel.multiply(a, c), Form(F.ext(7)), a + c]
    coefs = [Ext.from_array(F, k(rng)) for _ in forms]
    expected = Form(F.zero)
    for coef, form in zip(coefs, forms, strict=True):
        expected = expected + form.scale(coef)
    assert Form.combination(F, list(zip(coefs, forms, strict=True))) == expected
    assert Form.combination(F, []) == Form(F.zero)


def test_a_round_is_the_polynomial_through_its_three_values() -> None:
    """g(r) from g(0), g(1) and g(2), where claim = w0·g(0) + w1·g(1); at the nodes the values themselves."""
    g, e = [F.ext(11, 3), F.ext(5), F.ext(0, 9)], F.ext(6, 2)
    for r, expected in ((F.ext(0), g[0]), (F.ext(1), g[1]), (F.ext(2), g[2]), (F.ext(3), g[0] - 3 * g[1] + 3 * g[2])):
        for eq_point, claim in ((None, g[0] + g[1]), ([e], (1 - e) * g[0] + e * g[1])):
            factor, const, (c1, c2) = F.sumcheck_end([r], eq_point, g[1:])
            assert const == c1 * g[1] + c2 * g[2] and factor * claim + const == expected
            channel = Unlucky(r)
            at, form = sumcheck(channel, "round", Form(claim), 1, None, eq_point)
            assert at == [r] and channel.rounds == 1 and form == Form(factor * claim, {("pad", 0): c1, ("pad", 1): c2})


@given(st.integers(0, 6), st.booleans(), st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_rounds_added_up_once_are_rounds_one_after_the_other(count: int, with_eq: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    point, eq = ([Ext.from_array(F, k(rng)) for _ in range(count)] for _ in range(2))
    messages = [Ext.from_array(F, k(rng)) for _ in range(2 * count)]
    claim = start = Ext.from_array(F, k(rng))
    for i, r in enumerate(point):
        factor, const, _ = F.sumcheck_end([r], [eq[i]] if with_eq else None, messages[2 * i : 2 * i + 2])
        claim = factor * claim + const
    factor, const, coefs = F.sumcheck_end(point, eq if with_eq else None, messages)
    assert factor * start + const == claim
    assert sum((c * m for c, m in zip(coefs, messages, strict=True)), F.zero) == const


def test_only_a_prover_has_pads() -> None:
    with pytest.raises(RuntimeError, match="proving channel"):
        VerifyingChannel(F, b"")._hide([F.one], [("pad", 0)])


def test_no_pad_is_used_twice() -> None:
    channel = pads(1)
    forms = [f for i in range(5) for f in channel.secrets(f"{i}", i + 1, lambda i=i: [F.one] * (i + 1))]
    tails = channel.secrets("t", 3, lambda: [F.one] * 3, pool="tail")
    cells = [cell for f in [*forms, *tails] for cell in f.terms]
    assert len(cells) == len(set(cells)) and channel.take("pad", 1) not in {i for pool, i in cells if pool == "pad"}


def test_clear_and_secret_messages_are_absorbed() -> None:
    def first(channel: Channel) -> Ext:
        return channel.challenge("c")

    honest, other = pads(2), pads(2)
    honest.clear("m", 1, lambda: F.zeros(2, 1))
    other.clear("m", 1, lambda: F.array([[1], [0]]))
    assert first(honest) != first(other)
    honest, other = pads(2), pads(2)
    honest.secrets("m", 1, lambda: [F.zero])
    other.secrets("m", 1, lambda: [F.one])
    assert first(honest) != first(other)
    assert first(pads(2)) != pads(2).challenge("d")


@pytest.mark.parametrize("size", [0, 15, 16, 17, 31])
def test_sizes_come_from_the_schedule(size: int) -> None:
    channel = VerifyingChannel(F, bytes(size))
    if size < 16:
        with pytest.raises(VerificationError, match="truncated"):
            channel.clear("m", 1, lambda: F.zeros(2, 1))
    else:
        channel.clear("m", 1, lambda: F.zeros(2, 1))
        if size > 16:
            with pytest.raises(VerificationError, match="trailing"):
                channel.finish()


class Table:
    """Honest prover of Σ_x eq(point, x)·a(x)·b(x), or without eq; multilinear tables over K."""

    def __init__(self, a: np.ndarray, b: np.ndarray, eq: np.ndarray | None) -> None:
        self.a, self.b, self.eq = a, b, eq

    def total(self) -> Ext:
        weighted = self.a if self.eq is None else F.kmul(self.a, self.eq)
        return Ext.from_array(F, F.kdot(weighted, self.b))

    def round(self) -> tuple[Ext, Ext]:
        half = self.a.shape[1] // 2
        rest = None if self.eq is None else F.add(self.eq[:, :half], self.eq[:, half:])
        out = []
        for x in (1, 2):
            a, b = (ReferenceBackend(F).fold_top(t, F.ext(x)) for t in (self.a, self.b))
            out.append(Ext.from_array(F, F.kdot(a if rest is None else F.kmul(a, rest), b)))
        self.rest = rest
        return out[0], out[1]

    def bind(self, r: Ext) -> None:
        self.a, self.b, self.eq = ReferenceBackend(F).fold_top(self.a, r), ReferenceBackend(F).fold_top(self.b, r), self.rest


@given(st.integers(0, 5), st.booleans(), st.booleans(), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_sumcheck_reduces_a_sum_to_a_point(variables: int, with_eq: bool, lie: bool, seed: int) -> None:
    rng, channel = np.random.default_rng(seed), pads(seed)
    point = [Ext.from_array(F, k(rng)) for _ in range(variables)]
    eq = F.eq_table(np.array([[x.c0 for x in point], [x.c1 for x in point]], dtype=np.uint64).reshape(2, -1)) if with_eq else None
    table = Table(k(rng, 1 << variables), k(rng, 1 << variables), eq)
    claim = table.total() + (1 if lie else 0)
    bound, end = sumcheck(channel, "r", Form(claim), variables, table, point if with_eq else None)
    assert len(bound) == variables
    honest = Ext.from_array(F, table.a) * Ext.from_array(F, table.b)
    assert (value(channel, end) == honest) is not lie


@given(st.integers(1, 6), st.integers(0, 96), st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_lagrange(count: int, at: int, seed: int) -> None:
    field = small_field(97)
    coefs = np.random.default_rng(seed).integers(0, 97, count).tolist()
    total = sum((w * sum(c * x**i for i, c in enumerate(coefs)) for x, w in enumerate(lagrange(field, count, field.ext(at)))), field.zero)
    assert total == sum(c * at**i for i, c in enumerate(coefs))


@pytest.mark.parametrize("wrong", [None, 0, 2, 3, 6])
def test_triples_hold_only_for_products(wrong: int | None) -> None:
    """T = 3 products and the masking pair: seven committed values of C, each of which matters."""
    channel = pads(9)
    x, y, z = channel.secrets("s", 3, lambda: [F.ext(2), F.ext(3), F.ext(5)])
    for a, b in ((x, y), (y, z), (z, z)):
        channel.multiply(a, b)
    system = ConstraintSystem()

    def sides(weights: list[Ext]) -> list[Ext]:
        return [sum((w * Ext.from_array(F, channel.pad_values[:, p[i]]) for w, p in zip(weights, channel.products)), F.zero)
                for i in range(2)]

    check_triples(channel, system, lambda weights: np.stack([s.array() for s in sides(weights)], axis=1))
    committed = {i: prod(sides(lagrange(F, 4, F.ext(i))), start=F.one) for i in range(7)}
    if wrong is not None:
        committed[wrong] = committed[wrong] + 1
    worth = [value(channel, c.form, committed) for c in system.constraints]
    assert [not w for w in worth] == [True, True, wrong is None]


class Unlucky(CountingChannel):
    """Every challenge is this one, which the transcript would give once in |K| tries."""

    def __init__(self, always: Ext) -> None:
        super().__init__(always.field)
        self.always = always

    def challenge(self, tag: str) -> Ext:
        return self.always


def test_challenges_that_prove_nothing_are_refused() -> None:
    """λ = 0 would drop the numerators, a weight 1 − r = 0 leave g(0) open, τ in a node show a pad's value."""
    with pytest.raises(VerificationError, match="zero-challenge at tree/lambda"):
        prove_fraction_tree(Unlucky(F.zero), ConstraintSystem(), 2, None)
    prove_fraction_tree(Unlucky(F.ext(0, 1)), ConstraintSystem(), 1, None)
    with pytest.raises(VerificationError, match="zero-weight at round"):
        sumcheck(CountingChannel(F), "round", Form(F.zero), 2, None, [F.zero, F.one])
    sumcheck(CountingChannel(F), "round", Form(F.zero), 2, None, [F.zero, F.ext(0, 1)])


@pytest.mark.parametrize(("tau", "refused"), [((0, 0), True), ((6, 0), True), ((7, 0), False), ((6, 1), False), ((0, 5), False)])
def test_tau_lies_outside_the_seven_nodes_of_three_products(tau: tuple[int, int], refused: bool) -> None:
    channel, system = Unlucky(F.ext(*tau)), ConstraintSystem()
    channel.products += [(0, 1), (2, 3), (4, 5)]
    channel.pads = 6
    if refused:
        with pytest.raises(VerificationError, match="zero-challenge at triples/tau"):
            check_triples(channel, system, lambda weights: F.zeros(2, 2))
    else:
        check_triples(channel, system, lambda weights: F.zeros(2, 2))
        assert channel.products[3] == (6, 7) and len(system.constraints) == 3


@pytest.mark.parametrize(("products", "refused"), [(48, False), (49, True)])
def test_a_field_has_nodes_for_so_many_products(products: int, refused: bool) -> None:
    """2T + 1 of them: with p = 97 at most 48 products."""
    field = small_field(97)
    channel, system = Unlucky(field.ext(0, 1)), ConstraintSystem()
    channel.products += [(0, 1)] * products
    if refused:
        with pytest.raises(VerificationError, match="parameters at triples"):
            check_triples(channel, system, lambda weights: field.zeros(2, 2))
    else:
        check_triples(channel, system, lambda weights: field.zeros(2, 2))
