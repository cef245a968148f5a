"""What a task's witness in exact integers takes: calls of the array library, cells that they read and write, multiply-adds.

A layer's graph is evaluated twice (prover/witness/task.py): step by step for the committed tensors, then as a whole for the other ones that
a proof reads, the committed ones given; the graphs of other tasks once. Then everything is checked. Each operation is counted as
prover/executor/torch_ops.py does it; a pass is a cell read or written. Called by forecast.py and rates.py.
"""

from collections.abc import Iterable, Mapping

from protocol.relation.graph import AxisMap, Committed, Gather, Graph, Hint, Input, Linear, OneHot, Operation, Product, Tensor
from prover.cost.work import Work, contracted
from prover.witness.task import read_by_proof, stepwise

VISIT = 3  # a tensor put in order, looked up, dropped, in calls
BOUNDS = 4  # calls for the extent of a tensor, which is read once
# of a hint: calls, and passes over each cell that it is given; the shift of a softmax tries two tables on all scores
HINTS = {
    "softmax_shift": (60, 48), "table": (6, 8), "rsqrt": (24, 20), "isqrt": (18, 18), "divide": (3, 4), "limb": (4, 4),
    "round_shift": (4, 4),
}
OTHER_HINT = (6, 4)


def steps(graph: Graph) -> int:
    """Of the window."""
    return max((t.shape[0] for t in graph.tensors if t.axes.startswith("s")), default=1)


def graphs_built(graph: Graph) -> int:
    """By the prover: the task's, and for a layer the window's again and one for each step."""
    return 2 + steps(graph) if stepwise(graph) else 1


def evaluation_work(graph: Graph) -> Work:
    """Both evaluations and the check."""
    hints = {t.index: h for h in graph.hints for t in h.outputs}
    read, twice = read_by_proof(graph), stepwise(graph)
    committed = [t for t in read if isinstance(graph.ops[t.index], Committed)]
    calls, passes, macs = _evaluated(graph, read, {t.index for t in committed} if twice else set(), hints)
    if twice:
        of_step, of_window, again = _evaluated(graph, committed, set(), hints)
        calls, passes, macs = calls + steps(graph) * (of_step + len(committed)), passes + of_window, macs + again
        passes += 2 * sum(t.cells for t in committed)  # stacked
    columns = [t.cells for lookup in graph.lookups for t in lookup.columns]
    passes += sum(t.cells for t in read) + 2 * sum(zero.tensor.cells for zero in graph.zeros) + 4 * sum(columns)
    calls += BOUNDS * (len(read) + len(graph.zeros)) + 10 * len(graph.lookups)
    return Work(operations=calls, evaluated=passes, macs=macs)


Found = tuple[float, float, float]  # calls, passes, multiply-adds


def _evaluated(graph: Graph, wanted: Iterable[Tensor], given: set[int], hints: Mapping[int, Hint]) -> Found:
    """Everything that is computed on the way to `wanted`."""
    calls = passes = macs = 0.0
    seen, made, stack = set[int](), set[int](), list(wanted)
    while stack:
        tensor = stack.pop()
        if tensor.index in seen:
            continue
        seen.add(tensor.index)
        op = graph.ops[tensor.index]
        calls += VISIT
        if tensor.index in given or isinstance(op, Input | Committed):
            calls, passes = calls + BOUNDS, passes + tensor.cells
        if tensor.index in given or isinstance(op, Input):
            calls += 2
        elif isinstance(op, Committed):
            hint = hints[tensor.index]
            stack += hint.inputs
            if id(hint) not in made:
                made.add(id(hint))
                own, each = HINTS.get(hint.kind, OTHER_HINT)
                calls, passes = calls + own, passes + each * max(hint.inputs[0].cells, hint.outputs[0].cells)
        else:
            (own, each, products), sources = _operation(op, tensor)
            calls, passes, macs = calls + own, passes + each, macs + products
            stack += sources
    return calls, passes, macs


def _operation(op: Operation, tensor: Tensor) -> tuple[Found, list[Tensor]]:
    """Of a virtual tensor, and what it is computed from."""
    cells = tensor.cells
    if isinstance(op, Linear):
        scaled = [3 * len(t.vectors) * t.tensor.cells + (t.tensor.cells if set(t.axes) - set(tensor.axes) else 0) for t in op.terms]
        calls = 3 + sum(5 + 3 * len(t.vectors) for t in op.terms)
        return (calls, cells + 3 * cells * len(op.terms) + sum(scaled), 0), [t.tensor for t in op.terms]
    if isinstance(op, Product):
        if set(op.a_axes) <= set(tensor.axes):
            return (8, 3 * cells, 0), [op.a, op.b]
        return (20, 5 * (op.a.cells + op.b.cells) + 4 * cells, cells * contracted(op, tensor.axes)), [op.a, op.b]
    if isinstance(op, AxisMap):
        moved = cells // max(tensor.shape[op.axis], 1) * len(op.rows)
        return (14, cells + 8 * moved, 0), [op.tensor] if len(op.rows) else []
    if isinstance(op, Gather):
        return (4, 2 * cells, 0), [op.tensor]
    if isinstance(op, OneHot):
        return (8, 4 * cells, 0), [op.high, op.low]
    return (2, 0, 0), []
