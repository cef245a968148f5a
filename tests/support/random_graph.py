"""Random graphs of every operation at edge sizes (1, primes, powers of two), with honest values of every tensor.

A graph starts with a secret tensor and applies operations one after the other; after each the tensor is rescaled to a few bits, so
that tables stay small. Bounds are the graph's own: what fits in them must be provable. `name` is one for each tensor of a graph.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from protocol.encoding import canonical_json
from protocol.field import GOLDILOCKS
from protocol.layout import CommitmentLayout
from protocol.relation.graph import Committed as CommittedOp
from protocol.relation.graph import Graph, Input, IntArray, Tensor, Term
from protocol.relation.rounding import commit_copy, divide, isqrt, range_check, rescale, rounded_bounds
from protocol.schedule.opening import Committed
from protocol.schedule.task import TaskShape
from prover.argument.prove import prove_task
from prover.commitment.commit import commit
from prover.executor.evaluate import check, evaluate
from prover.executor.reference import ReferenceOps
from tests.support.stage import PARAMS, backend, seed, verify

SIZES = (1, 2, 3, 4, 5, 7, 8, 11, 13, 16, 17)
KEPT = 7  # bits of the running tensor
Step = Callable[[Graph, np.random.Generator, Tensor], Tensor]


def name(g: Graph) -> str:
    return f"v{len(g.tensors)}"


def kept(g: Graph, t: Tensor, shift: int | None = None) -> Tensor:
    """t as a committed tensor of few bits."""
    if shift is None:
        shift = max(t.magnitude.bit_length() - KEPT, 0)
    low, high = rounded_bounds(t, shift)
    return rescale(g, t, shift, max(abs(low), abs(high)).bit_length() + 1, name(g))


def renamed(g: Graph, t: Tensor) -> Tensor:
    """Every operation leaves two axes; here they get their letters back."""
    return t if t.axes == "no" else g.linear(name(g), "no", (1, t, "no"))


def matmul(g: Graph, rng: np.random.Generator, t: Tensor) -> Tensor:
    weights = g.input("base", name(g), "op", (t.shape[1], int(rng.choice(SIZES))), -7, 7)
    return g.product(name(g), "no,op->np", t, weights)


def square(g: Graph, rng: np.random.Generator, t: Tensor) -> Tensor:
    return g.product(name(g), "no,no->no", t, t)


def outer(g: Graph, rng: np.random.Generator, t: Tensor) -> Tensor:
    sums = g.product(name(g), "no,no->n", t, t)
    return g.linear(name(g), "no", (1, t), (-1, sums))


def mapped(g: Graph, rng: np.random.Generator, t: Tensor) -> Tensor:
    """A random sparse matrix on axis o: slices, permutations, repeats, empty rows."""
    size, count = int(rng.choice(SIZES)), int(rng.integers(0, 9))
    rows, cols = rng.integers(0, size, count), rng.integers(0, t.shape[1], count)
    return g.axis_map(name(g), t, "o", size, rows, cols, rng.integers(-3, 4, count))


def gathered(g: Graph, rng: np.random.Generator, t: Tensor) -> Tensor:
    index = rng.integers(0, t.shape[0], (int(rng.integers(1, 4)), int(rng.integers(1, 4))))
    rows = g.gather(name(g), t, "pq", index)
    return g.linear(name(g), "qo" if rng.integers(2) else "po", (1, rows))


def public(g: Graph, rng: np.random.Generator, t: Tensor) -> Tensor:
    table = g.public(name(g), "o", rng.integers(-4, 5, t.shape[1]))
    vector = rng.integers(-3, 4, t.shape[0])
    scaled = g.product(name(g), "no,o->no", t, table)
    return g.linear(name(g), "no", (1, scaled), Term(-2, t, "no", (("n", vector),)), const=int(rng.integers(-5, 6)))


def rooted(g: Graph, rng: np.random.Generator, t: Tensor) -> Tensor:
    return isqrt(g, square(g, rng, t), name(g))


def divided(g: Graph, rng: np.random.Generator, t: Tensor) -> Tensor:
    divisor = g.linear(name(g), "no", (1, rooted(g, rng, t)), const=int(rng.integers(1, 9)))
    most = 16 * t.magnitude // divisor.lo + 1
    y = g.commit(name(g), "no", t.shape, -most, most)
    divide(g, g.linear(name(g), "no", (16, t)), divisor, y)
    bits = most.bit_length() + 1
    range_check(g, g.linear(name(g), "no", (1, y), const=1 << bits - 1), bits, name(g))
    return y


def shifted(g: Graph, rng: np.random.Generator, t: Tensor) -> Tensor:
    """Rescales by nothing, by one bit, by more than there is, by more than one limb."""
    return kept(g, g.linear(name(g), "no", (1 << int(rng.integers(0, 12)), t)), int(rng.choice([0, 1, 2, 9, 16, 17, 20])))


def copied(g: Graph, rng: np.random.Generator, t: Tensor) -> Tensor:
    """To another commitment, as a layer's outputs are."""
    return commit_copy(g, t, t.magnitude.bit_length() + 1, name(g), "out")


def hot(g: Graph, rng: np.random.Generator, t: Tensor) -> Tensor:
    """Ids as one-hot rows, which choose a column of each row."""
    size = t.shape[1]
    base = int(np.ceil(np.sqrt(size)))
    ids = g.input("base", name(g), "n", (t.shape[0],), 0, size - 1)
    digits, dots = [], []
    for axis, length, weight in (("i", -(-size // base), base), ("k", base, 1)):
        digit = g.commit(name(g), "n" + axis, (t.shape[0], length), 0, 1)
        g.lookup("range:1", digit)
        g.zero(g.linear(name(g), "n", (1, digit), const=-1))
        dots.append(g.axis_map(name(g), digit, axis, 1, np.zeros(length, dtype=np.int64), np.arange(length), np.arange(length) * weight))
        digits.append(digit)
    g.hint("digits", [ids], digits, base=base)
    g.zero(g.linear(name(g), "n", (1, dots[0]), (1, dots[1]), (-1, ids)))
    chosen = g.product(name(g), "no,no->n", g.one_hot(name(g), *digits, "o", size), t)
    return g.linear(name(g), "no", (1, chosen), sizes={"o": int(rng.choice(SIZES[:6]))})


def seen(g: Graph, rng: np.random.Generator, t: Tensor) -> Tensor:
    g.publish(g.linear(name(g), "n" if rng.integers(2) else "", (1, t)), f"seen{len(g.published)}")
    return t


STEPS: dict[str, Step] = {step.__name__: step for step in (
    matmul, square, outer, mapped, gathered, public, rooted, divided, shifted, copied, hot, seen)}


def random_graph(steps: Sequence[str], rows: int, columns: int, number: int) -> Graph:
    g, rng = Graph(), np.random.default_rng(number)
    t = g.input("x", "x", "no", (rows, columns), -9, 9)
    for step in steps:
        t = renamed(g, STEPS[step](g, rng, t))
        if t.magnitude.bit_length() > KEPT:
            t = kept(g, t)
    kept(g, t)  # something is looked up in every graph
    g.publish(g.linear("end", "", (1, t)), "end")
    return g


@dataclass(frozen=True)
class Honest:
    """Random inputs within their bounds, edges of the bounds included, and every value that follows."""

    graph: Graph
    inputs: dict[tuple[str, str], IntArray]
    values: list[IntArray]


def honest(graph: Graph, number: int) -> Honest:
    rng, inputs = np.random.default_rng(number), {}
    for tensor, op in zip(graph.tensors, graph.ops, strict=True):
        if isinstance(op, Input):
            value, edge = rng.integers(tensor.lo, tensor.hi + 1, tensor.shape), rng.integers(0, 5, tensor.shape)
            inputs[op.commitment, op.tensor_name] = np.where(edge == 0, tensor.lo, np.where(edge == 1, tensor.hi, value))
    found = evaluate(graph, inputs, graph.tensors, ReferenceOps())
    check(graph, found)
    return Honest(graph, inputs, [found[i] for i in range(len(found))])


def prove_and_verify(case: Honest) -> None:
    """VerificationError if an honest proof of an honest statement is not accepted."""
    shape, tensors = TaskShape(case.graph, GOLDILOCKS), dict[str, dict[str, IntArray]]()
    for (role, tensor), value in case.inputs.items():
        tensors.setdefault(role, {})[tensor] = value
    for made, op in zip(case.graph.tensors, case.graph.ops, strict=True):
        if isinstance(op, CommittedOp) and op.commitment != "witness":
            tensors.setdefault(op.commitment, {})[op.tensor_name] = case.values[made.index]
    data = {
        role: commit(backend(), CommitmentLayout.pack([(n, a.shape) for n, a in held.items()], PARAMS.code(1)), held, seed(role))
        for role, held in tensors.items()
    }
    published = {item.name: case.values[item.tensor.index] for item in case.graph.published}
    statement = canonical_json([case.graph.digest(), [[role, d.id] for role, d in data.items()]])
    proof = prove_task(backend(), shape, statement, list(data.items()), case.values, published, PARAMS, seed("proof"), lambda: None)
    verify(shape, statement, [Committed(role, d.layout, d.root) for role, d in data.items()], published, proof)
