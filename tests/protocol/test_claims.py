"""Claim reduction equals brute force: ⟨w, T⟩ for every operation, and whole proofs of random graphs with odd shapes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.field import GOLDILOCKS, U64, Ext, Field, small_field
from protocol.relation.graph import Committed, Graph, Input, IntArray, RelationError, Tensor, Term
from protocol.schedule.claims import PublicValues, contract, expand, integer_dot, scatter_sum
from protocol.schedule.constraints import Weights
from protocol.schedule.products import Instance
from prover.executor.evaluate import evaluate
from prover.executor.reference import ReferenceOps
from tests.support.tiny import Tiny, tiny_graph

F = GOLDILOCKS
sizes = st.integers(1, 5)
numbers = st.integers(0, 2**32)


def random_k(rng: np.random.Generator, n: int) -> U64:
    return rng.integers(0, 1 << 63, (2, n)).astype(np.uint64)


def brute(values: IntArray, weights: Weights) -> Ext:
    """Σ_x Π_a w_a(x_a)·T(x), cell by cell."""
    total = F.zero
    for cell in np.ndindex(*values.shape):
        term = F.one * int(values[cell])
        for w, x in zip(weights, cell):
            term = term * Ext.from_array(F, w[:, x])
        total = total + term
    return total


class World:
    """A graph with random inputs."""

    def __init__(self, seed: int) -> None:
        self.rng, self.g, self.inputs = np.random.default_rng(seed), Graph(), dict[tuple[str, str], IntArray]()

    def input(self, name: str, axes: str, *shape: int) -> Tensor:
        self.inputs["in", name] = self.rng.integers(-9, 10, shape)
        return self.g.input("in", name, axes, shape, -9, 9)

    def check(self, tensor: Tensor) -> None:
        values = evaluate(self.g, self.inputs, self.g.tensors, ReferenceOps())
        weights = tuple(random_k(self.rng, n) for n in tensor.shape)
        coef = Ext.from_array(F, random_k(self.rng, 1))
        found = expand(self.g, PublicValues(F), tensor, weights, coef)
        total = found.const
        for term in found.terms:
            total = total + term.coef * brute(self.inputs[term.place], term.weights)
        for c, atom, w in found.atoms:
            total = total + c * brute(values[atom.index], w)
        assert total == coef * brute(values[tensor.index], weights)
        assert contract(F, values[tensor.index], weights) == brute(values[tensor.index], weights)


@given(sizes, sizes, sizes, numbers)
@settings(max_examples=60, deadline=None)
def test_linear(a: int, b: int, c: int, seed: int) -> None:
    """Transposed, summed, broadcast, with vectors and constants."""
    w = World(seed)
    x, y, z = w.input("x", "ab", a, b), w.input("y", "ca", c, a), w.input("z", "b", b)
    vector = w.rng.integers(-5, 6, a)
    t = w.g.linear("t", "ba", (3, x), (-2, y), Term(7, z, "b", (("a", vector),)), const=11)
    w.check(t)
    w.check(w.g.linear("all", "", (1, t, "ba"), const=-4))
    w.check(w.g.linear("wide", "dab", (1, t, "ba"), (5, z), sizes={"d": c}))
    w.check(w.g.linear("zero", "ab", sizes={"a": a, "b": b}))
    w.check(w.g.linear("only", "ab", const=5, sizes={"a": a, "b": b}))


@given(sizes, sizes, sizes, numbers)
@settings(max_examples=60, deadline=None)
def test_axis_map_gather_and_public(a: int, b: int, c: int, seed: int) -> None:
    w = World(seed)
    x = w.input("x", "ab", a, b)
    count = int(w.rng.integers(0, 2 * c + 1))
    rows, cols = w.rng.integers(0, c, count), w.rng.integers(0, b, count)
    w.check(w.g.axis_map("map", x, "b", c, rows, cols, w.rng.integers(-5, 6, count)))
    w.check(w.g.axis_map("first", x, "a", c, w.rng.integers(0, c, 2), w.rng.integers(0, a, 2)))
    w.check(w.g.gather("rows", x, "st", w.rng.integers(0, a, (b, c))))
    public = w.g.public("p", "ab", w.rng.integers(-9, 10, (a, b)))
    w.check(public)
    w.check(w.g.linear("mixed", "ab", (2, public), (1, x)))


def test_only_products_are_instances() -> None:
    w = World(1)
    x = w.input("x", "a", 3)
    with pytest.raises(TypeError, match="x is not a product"):
        _ = Instance(w.g, F, x, (random_k(w.rng, 3),)).op


def test_one_example_of_every_linear_operation() -> None:
    """The cases above, once."""
    w = World(3)
    x, y = w.input("x", "ab", 3, 4), w.input("y", "b", 4)
    w.check(w.g.linear("t", "ba", (3, x), Term(-7, y, "b", (("a", np.array([2, -1, 4])),)), const=11))
    w.check(w.g.linear("sum", "a", (2, x), const=-4))
    w.check(w.g.axis_map("map", x, "b", 2, np.array([0, 1, 1]), np.array([3, 0, 3]), np.array([5, -2, 1])))
    w.check(w.g.gather("rows", x, "st", np.array([[0, 2], [2, 2], [1, 0]])))
    public = w.g.public("p", "ab", w.rng.integers(-9, 10, (3, 4)))
    w.check(public)
    w.check(w.g.linear("mixed", "ab", (2, public), (1, x)))


@given(sizes, sizes, sizes, sizes, numbers)
@settings(max_examples=25, deadline=None)
def test_products_and_their_end_claims(a: int, b: int, c: int, d: int, seed: int) -> None:
    """Σ_x A'(x)·B'(x) = ⟨w, Z⟩, and A'~(r), B'~(r) are the claims that the schedule puts on the factors."""
    w = World(seed)
    x, y = w.input("x", "nab", d, a, b), w.input("y", "ncb", d, c, b)
    z = w.g.product("z", "nab,ncb->nac", x, y)
    w.check(z)
    weights = tuple(random_k(w.rng, n) for n in z.shape)
    instance = Instance(w.g, F, z, weights)
    point = random_k(w.rng, instance.variables)
    for tensor, claim in zip(instance.factors, instance.end_weights(point, {})):
        assert [v.shape[1] for v in claim] == list(tensor.shape)
    values = w.inputs["in", "x"], w.inputs["in", "y"]
    corners = F.zero
    for cell in range(1 << instance.variables):
        bits = np.array([[cell >> (instance.variables - 1 - i) & 1 for i in range(instance.variables)], [0] * instance.variables])
        left, right = instance.end_weights(bits.astype(np.uint64), {})
        corners = corners + brute(values[0], left) * brute(values[1], right)
    assert corners == brute(np.einsum("nab,ncb->nac", *values), weights)


@given(sizes, sizes, st.integers(2, 4), numbers)
@settings(max_examples=15, deadline=None)
def test_one_hot_instances(a: int, high: int, base: int, seed: int) -> None:
    w = World(seed)
    x, y = w.input("x", "ai", a, high), w.input("y", "ak", a, base)
    size = int(w.rng.integers(1, high * base + 1))
    hot = w.g.one_hot("hot", x, y, "v", size)
    w.check(hot)
    weights = tuple(random_k(w.rng, n) for n in hot.shape)
    instance = Instance(w.g, F, hot, weights)
    values = w.inputs["in", "x"], w.inputs["in", "y"]
    total = F.zero
    for cell in range(1 << instance.variables):
        bits = np.array([[cell >> (instance.variables - 1 - i) & 1 for i in range(instance.variables)], [0] * instance.variables])
        left, right = instance.end_weights(bits.astype(np.uint64), {})
        total = total + brute(values[0], left) * brute(values[1], right)
    assert total == brute(ReferenceOps().one_hot(*values, size), weights)


@given(st.integers(1, 6), st.integers(1, 6), numbers)
@settings(max_examples=30, deadline=None)
def test_scatter_sum(n: int, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    w, index = random_k(rng, n), rng.integers(0, size, n)
    found = scatter_sum(F, w, index, size)
    for k in range(size):
        want = sum((Ext.from_array(F, w[:, i]) for i in range(n) if index[i] == k), F.zero)
        assert Ext.from_array(F, found[:, k]) == want


@given(st.integers(2, 5), st.integers(1, 5), st.integers(1, 6), st.integers(1, 2**20))
@settings(max_examples=12, deadline=None)
def test_honest_proofs_of_odd_shapes_are_accepted(out: int, rows: int, inner: int, seed: int) -> None:
    tiny = Tiny(tiny_graph(out, rows, inner), seed)
    assert tiny.reason(bytes(tiny.prove().proof)) == "accepted"


@pytest.mark.attacks
@given(st.integers(2, 6), st.integers(1, 9), st.integers(1, 17), st.integers(1, 2**20))
@settings(max_examples=100, deadline=None)
def test_honest_proofs_of_many_shapes_are_accepted(out: int, rows: int, inner: int, seed: int) -> None:
    tiny = Tiny(tiny_graph(out, rows, inner), seed)
    assert tiny.reason(bytes(tiny.prove().proof)) == "accepted"


@pytest.mark.parametrize("f", [GOLDILOCKS, small_field(97)], ids=lambda f: str(f.p))
@pytest.mark.parametrize("largest", [0, 1, 2**14, 2**28, 2**30 - 1, 2**30, 2**31 - 1, 2**31, 2**31 + 1, 2**62 - 1])
@pytest.mark.parametrize("shape", [(1,), (7,), (16,), (3, 9), (2, 3, 17)])
def test_integer_dot(f: Field, largest: int, shape: tuple[int, ...]) -> None:
    """Integers of both signs up to `largest`, all of them there, against vectors with the largest halves there can be: one piece, several,
    and a last one that is shorter."""
    rng = np.random.default_rng(largest % 1000)
    mixed = rng.choice(np.array([-largest, 1 - largest, 0, largest - 1, largest, largest]), shape)
    for values in (mixed, np.full(shape, largest), np.full(shape, -largest)):
        w = rng.choice(np.array([0, 1, 2**32 - 1, f.p - 1, f.p - 2**32], dtype=object) % f.p, (2, shape[-1])).astype(np.uint64)
        wanted = (values.astype(object)[None] * w.astype(object).reshape(2, *[1] * (len(shape) - 1), -1)).sum(axis=-1) % f.p
        found = integer_dot(f, values, w)
        assert found.dtype == np.uint64 and found.tolist() == wanted.tolist()


def test_no_sum_of_an_integer_dot_leaves_64_bits() -> None:
    """The longest pieces of the largest values, beside halves of nearly 2^32."""
    for largest, n in ((2**20 - 1, 2**11), (2**20 - 1, 2**12 + 5), (2**20, 2**11), (1, 2**16), (2**30, 3), (2**31 - 1, 5), (-(2**31), 2)):
        values, w = np.full(n, largest), np.full((2, n), F.p - 1 - (2**32 - 1) * 2**32 + (2**32 - 2) * 2**32, dtype=np.uint64)
        assert integer_dot(F, values, w).tolist() == [largest * n * int(w[0, 0]) % F.p] * 2


def test_public_tensors_are_evaluated_once_for_the_same_vectors() -> None:
    w = World(2)
    known, g = PublicValues(F), w.g
    tensors = [g.public(name, "ab", w.rng.integers(-9, 10, (3, 4))) for name in "pq"]
    values = {t.index: g.ops[t.index].values for t in tensors}  # type: ignore[union-attr]
    for _ in range(50):  # vectors that nobody else holds: each gets a place of its own in memory
        for t in tensors:
            weights = random_k(w.rng, 3), random_k(w.rng, 4)
            first = known.at(t, values[t.index], weights)
            assert first == brute(values[t.index], weights) and known.at(t, values[t.index], weights) is first
    shared = random_k(w.rng, 3), random_k(w.rng, 4)
    assert [known.at(t, values[t.index], shared) for t in tensors] == [brute(values[t.index], shared) for t in tensors]
    assert len(known.found) == 102
    assert expand(g, known, tensors[0], shared, F.one).const is not None and len(known.found) == 102


def test_bounds_at_2_62_are_refused() -> None:
    g = Graph()
    x = g.input("in", "x", "a", (2,), -(1 << 31), 1 << 31)
    with pytest.raises(RelationError, match="2\\^62"):
        g.product("square", "a,a->", x, x)


def test_bounds_of_sums_longer_than_2_63_are_refused() -> None:
    """Counted in 64 bits, a sum over 2^32 · 2^32 places would have none, and any bound."""
    g, size = Graph(), 1 << 32
    x = g.input("in", "x", "ab", (size, size), -1, 1)
    assert x.cells == 1 << 64
    with pytest.raises(RelationError, match="2\\^62"):
        g.product("square", "ab,ab->", x, x)
    with pytest.raises(RelationError, match="2\\^62"):
        g.linear("sum", "", (1, x))


def test_every_committed_tensor_is_named_once_in_its_role() -> None:
    g = tiny_graph()
    names = [(op.commitment, op.tensor_name) for op in g.ops if isinstance(op, Committed | Input)]
    assert len(names) == len(set(names))
