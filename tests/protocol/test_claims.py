"""Claim reduction equals brute force: ⟨w, T⟩ for every operation, and whole proofs of random graphs with odd shapes."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.field import GOLDILOCKS, U64, Ext, Field, small_field
from protocol.layout import Vectors, within
from protocol.relation.graph import Committed, Graph, Input, IntArray, RelationError, Tensor, Term
from protocol.schedule.claims import Claim, contract, expand, scatter_sum
from protocol.schedule.constraints import Box, Weights, whole
from protocol.schedule.products import Instance
from protocol.schedule.task import TaskShape
from prover.executor.evaluate import evaluate
from prover.executor.reference import ReferenceOps
from tests.support.tiny import Tiny, tiny_graph

F = GOLDILOCKS
sizes = st.integers(1, 5)
numbers = st.integers(0, 2**32)


def random_k(rng: np.random.Generator, n: int) -> U64:
    return rng.integers(0, 1 << 63, (2, n)).astype(np.uint64)


def boxed(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Weights, Box]:
    """Random weights that are zero outside a random box."""
    sides = [sorted(rng.choice(n + 1, 2, replace=False).tolist()) for n in shape]
    box = tuple((start, stop) for start, stop in sides)
    return tuple(within(F, random_k(rng, stop - start), n, (start, stop)) for n, (start, stop) in zip(shape, box)), box


def nothing_outside(weights: Weights, box: Box) -> bool:
    """What makes a box: no weight on any side beyond it."""
    outside = [np.delete(w, np.s_[start:stop], axis=1) for w, (start, stop) in zip(weights, box, strict=True)]
    return all(0 <= start < stop <= w.shape[1] for w, (start, stop) in zip(weights, box)) and not any(w.any() for w in outside)


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
        self.vectors = Vectors(F)

    def input(self, name: str, axes: str, *shape: int) -> Tensor:
        self.inputs["in", name] = self.rng.integers(-9, 10, shape)
        return self.g.input("in", name, axes, shape, -9, 9)

    def check(self, tensor: Tensor) -> None:
        """⟨w, T⟩ with weights on all cells, then on those of a box."""
        values = evaluate(self.g, self.inputs, self.g.tensors, ReferenceOps())
        weights = tuple(random_k(self.rng, n) for n in tensor.shape)
        coef = Ext.from_array(F, random_k(self.rng, 1))
        for claim in (Claim.everywhere(coef, tensor, weights), Claim(coef, tensor, *boxed(self.rng, tensor.shape))):
            found = expand(self.g, self.vectors, claim)
            total = found.const
            for term in found.terms:
                assert nothing_outside(term.weights, term.box)
                total = total + term.coef * brute(self.inputs[term.place], term.weights)
            for atom in found.atoms:
                assert nothing_outside(atom.weights, atom.box)
                total = total + atom.coef * brute(values[atom.tensor.index], atom.weights)
            assert total == coef * brute(values[tensor.index], claim.weights)
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
        _ = Instance(w.g, F, x, (random_k(w.rng, 3),), ((0, 3),)).op


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
    values = w.inputs["in", "x"], w.inputs["in", "y"]
    check_ends(w, z, values, np.einsum("nab,ncb->nac", *values))


def test_boxes_follow_the_axes_that_survive() -> None:
    """Renamed and broadcast by a sum, kept by an axis map on its other axes, lost where rows are gathered or an axis is mapped."""
    w = World(4)
    x, y, rows = w.input("x", "ab", 4, 6), w.input("y", "b", 6), w.input("rows", "ec", 7, 5)
    box = ((1, 3), (2, 5))

    def found(tensor: Tensor, box: Box) -> dict[str, Box]:
        weights = tuple(within(F, random_k(w.rng, stop - start), n, (start, stop)) for n, (start, stop) in zip(tensor.shape, box))
        expansion = expand(w.g, Vectors(F), Claim(F.one, tensor, weights, box))
        return {term.place[1]: term.box for term in expansion.terms} | {atom.tensor.name: atom.box for atom in expansion.atoms}

    assert found(w.g.linear("t", "ba", (1, x), (1, y)), ((2, 5), (1, 3))) == {"x": box, "y": ((2, 5),)}
    assert found(w.g.linear("renamed", "cd", (1, x, "dc")), ((2, 5), (1, 3))) == {"x": box}
    assert found(w.g.linear("summed", "a", (1, x)), ((1, 3),)) == {"x": ((1, 3), (0, 6))}
    assert found(w.g.axis_map("map", x, "b", 3, [0, 2], [5, 1]), ((1, 3), (0, 2))) == {"x": ((1, 3), (0, 6))}
    assert found(w.g.axis_map("first", x, "a", 3, [0, 2], [3, 1]), ((1, 3), (2, 5))) == {"x": ((0, 4), (2, 5))}
    assert found(w.g.gather("gathered", rows, "st", [[0, 6], [2, 2]]), ((0, 1), (1, 2), (3, 4))) == {"rows": ((0, 7), (3, 4))}
    assert found(w.g.product("z", "ab,ab->ab", x, x), box) == {"z": box}


def test_a_box_bounds_the_sum() -> None:
    """Five, four and six cells of shared, own and contracted axes, of which the box has two, three and all: 1 + 3 variables, not 3 + 3."""
    w = World(5)
    x, y = w.input("x", "nab", 5, 4, 6), w.input("y", "ncb", 5, 2, 6)
    z = w.g.product("z", "nab,ncb->nac", x, y)
    box = ((3, 5), (1, 4), (0, 2))
    instance = Instance(w.g, F, z, tuple(within(F, random_k(w.rng, b - a), n, (a, b)) for n, (a, b) in zip(z.shape, box)), box)
    assert instance.variables == 4 and instance.shared == (("n", 5, (3, 5)), ("b", 6, (0, 6)))
    assert [factor.box for factor in instance.factors] == [((3, 5), (1, 4), (0, 6)), ((3, 5), (0, 2), (0, 6))]
    hot = w.g.one_hot("hot", w.input("i", "nb", 5, 2), w.input("j", "na", 5, 3), "b", 6)
    instance = Instance(w.g, F, hot, (random_k(w.rng, 5), random_k(w.rng, 6)), ((1, 4), (2, 3)))
    assert instance.variables == 3 and [factor.box for factor in instance.factors] == [((1, 4), (0, 2)), ((1, 4), (0, 3))]


def check_ends(w: World, tensor: Tensor, factors: tuple[IntArray, IntArray], product: IntArray) -> None:
    """Σ over corners of A'·B' is the claim, on all cells and on a box; the factors' claims weigh nothing outside their boxes."""
    everywhere = tuple(random_k(w.rng, n) for n in tensor.shape), whole(tensor.shape)
    for weights, box in (everywhere, boxed(w.rng, tensor.shape)):
        instance = Instance(w.g, F, tensor, weights, box)
        assert instance.variables == sum((stop - start - 1).bit_length() for _, _, (start, stop) in instance.shared)
        point = random_k(w.rng, instance.variables)
        for factor, claim in zip(instance.factors, instance.ends(point, Vectors(F))):
            assert claim.tensor is factor.tensor and [v.shape[1] for v in claim.weights] == list(factor.tensor.shape)
            assert claim.box == factor.box and nothing_outside(claim.weights, claim.box) and claim.coef == F.one
        corners = F.zero
        for cell in range(1 << instance.variables):
            bits = np.array([[cell >> (instance.variables - 1 - i) & 1 for i in range(instance.variables)], [0] * instance.variables])
            left, right = instance.ends(bits.astype(np.uint64), Vectors(F))
            corners = corners + brute(factors[0], left.weights) * brute(factors[1], right.weights)
        assert corners == brute(product, weights)


@given(sizes, sizes, st.integers(2, 4), numbers)
@settings(max_examples=15, deadline=None)
def test_one_hot_instances(a: int, high: int, base: int, seed: int) -> None:
    w = World(seed)
    x, y = w.input("x", "ai", a, high), w.input("y", "ak", a, base)
    size = int(w.rng.integers(1, high * base + 1))
    hot = w.g.one_hot("hot", x, y, "v", size)
    w.check(hot)
    values = w.inputs["in", "x"], w.inputs["in", "y"]
    check_ends(w, hot, values, ReferenceOps().one_hot(*values, size))


def test_a_one_hot_claim_keeps_no_matrix_of_its_vocabulary() -> None:
    """A verifier holds all claims of a batch: in boxes there are many, and the vocabulary is a stranger's choice."""
    g, size = Graph(), 1 << 16
    hot = g.one_hot("hot", g.input("in", "i", "nb", (64, 256), 0, 1), g.input("in", "j", "na", (64, 256), 0, 1), "v", size)
    z = g.product("z", "nv,vd->nd", hot, g.input("in", "E", "vd", (size, 4), 0, 15))
    g.lookup("range:4", g.linear("rest", "nd", (1, z), (-16, g.commit("y", "nd", z.shape, 0, 1 << 20))))
    shape = TaskShape(g, F, 6)
    boxes = sum(block.lookup is not None for plan in shape.plans for block in plan.blocks)
    tracemalloc.start()
    try:
        _ = shape.counts
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert boxes == 32 and most < 16 * size * boxes / 2


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
        found = f.integer_dot(values, w)
        assert found.dtype == np.uint64 and found.tolist() == wanted.tolist()


def test_no_sum_of_an_integer_dot_leaves_64_bits() -> None:
    """The longest pieces of the largest values, beside halves of nearly 2^32."""
    for largest, n in ((2**20 - 1, 2**11), (2**20 - 1, 2**12 + 5), (2**20, 2**11), (1, 2**16), (2**30, 3), (2**31 - 1, 5), (-(2**31), 2)):
        values, w = np.full(n, largest), np.full((2, n), F.p - 1 - (2**32 - 1) * 2**32 + (2**32 - 2) * 2**32, dtype=np.uint64)
        assert F.integer_dot(values, w).tolist() == [largest * n * int(w[0, 0]) % F.p] * 2


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
