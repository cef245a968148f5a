"""All tensors of one task, recomputed from boundary tensors: what a prover worker starts from.

A window with updates in its graph is evaluated step by step (it is cyclic in values over its steps: the update of one step is the
adapter of the next), committed values are stacked on axis s, then the window's graph gives the virtual
ones. The node list of a graph does not depend on the number of steps, so index i means the same in both. Of the virtual tensors a proof
reads those that are looked up or factors of products; the others are half of all cells and are dropped after their last use.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from protocol.manifest import RunManifest, StepRange
from protocol.relation.graph import Committed, Graph, Input, IntArray, OneHot, Product, Tensor
from protocol.relation.model import build
from prover.backend.base import Backend
from prover.executor.evaluate import Inputs, Ops, evaluate
from prover.executor.torch_ops import TorchOps

NARROW = ("uint8", "int8", "uint16", "int16", "uint32", "int32")  # uint64 are field elements (prover/commitment)
STEPWISE = ("x_in", "dx_in", "clip", "gradient")  # roles whose tensors have an axis s


def sizes(graph: Graph) -> dict[str, int]:
    """For plans and logs: tensors, cells committed by the task, cells looked up."""
    committed = sum(graph.tensors[i].cells for i in committed_indices(graph))
    return {"tensors": len(graph.tensors), "committed": committed,
            "lookups": sum(x.columns[0].cells for x in graph.lookups)}


def committed_indices(graph: Graph) -> list[int]:
    return [t.index for t, op in zip(graph.tensors, graph.ops, strict=True) if isinstance(op, Committed)]


def read_by_proof(graph: Graph) -> list[Tensor]:
    """Tensors whose values a proof needs, or the check before it: committed, looked up, factors, zero, published."""
    found = {t.index for lookup in graph.lookups for t in lookup.columns} | {zero.tensor.index for zero in graph.zeros}
    found |= {item.tensor.index for item in graph.published}
    for tensor, op in zip(graph.tensors, graph.ops, strict=True):
        if isinstance(op, Input | Committed):
            found.add(tensor.index)
        elif isinstance(op, Product):
            found |= {op.a.index, op.b.index}
        elif isinstance(op, OneHot):
            found |= {op.high.index, op.low.index}
    return [t for t in graph.tensors if t.index in found]


def integers_of(tensor: Tensor) -> np.dtype[Any]:
    """The smallest integers that hold a tensor's range."""
    limits = ((name, np.iinfo(name)) for name in NARROW)
    return np.dtype(next((name for name, n in limits if n.min <= tensor.lo and tensor.hi <= n.max), "int64"))


def kept_values(backend: Backend, graph: Graph, values: Iterable[Any]) -> list[Any]:
    """What a proof reads, where the backend computes, in the smallest integers: half of the memory, and kernels read them as
    they are. Inputs on the host stay as they are, because whoever opened their commitments has them too."""
    out = list[Any]()
    for tensor, op, x in zip(graph.tensors, graph.ops, values, strict=True):
        there = None if x is None else backend.to_device(x)
        shared = there is None or isinstance(op, Input) and backend.xp is np
        out.append(there if shared else there.astype(integers_of(tensor), copy=False))
        del x, there  # an array of `drained` values is freed before the next one is copied
    return out


def stepwise(graph: Graph) -> bool:
    """With updates: that of one step is the adapter of the next, so values are cyclic over the steps of a window."""
    return any(isinstance(op, Committed) and op.commitment == "state_out" for op in graph.ops)


def outputs(graph: Graph, values: Mapping[int, IntArray]) -> dict[tuple[str, str], IntArray]:
    """(role, tensor name) → array of everything committed outside the witness whose value is there."""
    found = {}
    for tensor, op in zip(graph.tensors, graph.ops, strict=True):
        if isinstance(op, Committed) and op.commitment != "witness" and tensor.index in values:
            found[op.commitment, op.tensor_name] = values[tensor.index]
    return found


def _committed_by_step(
    manifest: RunManifest, kind: str, window: StepRange, layer: int, inputs: Inputs, ops: Ops
) -> dict[int, Any]:
    """Committed values of a "layer" or "update" task, by tensor index."""
    final, per_step = window.stop == manifest.steps, []
    graph, current = build(manifest, kind, window, layer, final), dict(inputs)
    stepwise = [key for key in inputs if key[0].rstrip("0123456789") in STEPWISE and not key[1].startswith("gamma")]
    for offset in range(window.count):
        step = StepRange(window.first + offset, 1)
        single = build(manifest, kind, step, layer, final)
        current |= {key: inputs[key][offset : offset + 1] for key in stepwise}
        wanted = [single.tensors[i] for i in committed_indices(single)]
        values = evaluate(single, current, wanted, ops, first_step=step.first)
        current |= {("state_in", n): v for (role, n), v in outputs(single, values).items() if role == "state_out"}
        per_step.append(values)
    stacked = {}
    for i in committed_indices(graph):
        by_step = graph.tensors[i].axes.startswith("s")
        stacked[i] = ops.join([v[i] for v in per_step]) if by_step else per_step[-1][i]
    return stacked


def task_values(
    manifest: RunManifest, kind: str, window: StepRange | None, layer: int | str, inputs: Inputs,
    ops: Ops | None = None, every: bool = False, part: int = 0,
) -> tuple[Graph, list[Any]]:
    """The task's graph and the values of the tensors that a proof reads (None at the others) or of `every` tensor, by index, as `ops`
    gives results. `inputs` by (role, tensor name)."""
    ops = ops or TorchOps()
    graph = build(manifest, kind, window, layer, part=part)
    given: dict[int, Any] = {}
    if stepwise(graph) and window is not None and isinstance(layer, int):
        given = _committed_by_step(manifest, kind, window, layer, inputs, ops)
    wanted = graph.tensors if every else read_by_proof(graph)
    values = evaluate(graph, inputs, wanted, ops, given, 0 if window is None else window.first)
    return graph, [values.get(i) for i in range(len(graph.tensors))]
