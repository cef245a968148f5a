"""Exact integer LoRA training, window by window: boundary tensors are kept, everything else is recomputed by provers.

Per step: embed, every layer forward, head, every layer backward with its update. Forward values are dropped and
computed again in the backward pass, so memory is one layer's. With clipping the updates wait for the gradients of all
layers: mean gradients are kept, and the updates computed from them. Called by the training flow; its boundary tensors are
what gets committed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from protocol.manifest import RunManifest, StepRange
from protocol.relation.graph import Committed, Graph, IntArray, Tensor
from protocol.relation.model import build
from protocol.relation.update import MATRICES
from prover.executor.evaluate import Ops, evaluate
from prover.executor.torch_ops import TorchOps

State = Mapping[int, Mapping[str, IntArray]]
Arrays = Mapping[tuple[str, str], IntArray]


@dataclass(frozen=True)
class WindowTrace:
    """x {0…L: [s,b,t,d]}, dx {1…L}, state_out {layer: {name: array}}, delivered (last window), loss [s]; with clipping
    norms {layer: [s]} and clip [s] (protocol/relation/clip.py), empty and None without.

    loss_s · 2^−g summed over the step's loss tokens, g = exponents["head/vocab.g"].
    """

    window: StepRange
    x: dict[int, IntArray]
    dx: dict[int, IntArray]
    state_out: dict[int, dict[str, IntArray]]
    delivered: dict[int, dict[str, IntArray]]
    loss: IntArray
    norms: dict[int, IntArray] = field(default_factory=dict)
    clip: IntArray | None = None


@dataclass
class _Step:
    x: dict[int, IntArray] = field(default_factory=dict)
    dx: dict[int, IntArray] = field(default_factory=dict)
    state: dict[int, dict[str, IntArray]] = field(default_factory=dict)
    delivered: dict[int, dict[str, IntArray]] = field(default_factory=dict)
    loss: int = 0
    norms: dict[int, IntArray] = field(default_factory=dict)
    clip: IntArray | None = None


class Trainer:
    """`base`: {"base/0": {"W_q": …}, …, "embedding": {"E": …}, "head": {"W": …}}, int64; dataset arrays as committed."""

    def __init__(
        self, manifest: RunManifest, base: Mapping[str, Mapping[str, IntArray]], tokens: IntArray, mask: IntArray,
        ops: Ops | None = None,
    ) -> None:
        self.manifest, self.base, self.ops = manifest, base, ops or TorchOps()
        self.dataset = {("dataset", "tokens"): tokens, ("dataset", "mask"): mask}

    def run_window(
        self, window: StepRange, state: State | None = None, progress: Callable[[int, float], None] | None = None
    ) -> WindowTrace:
        """Trains the window's steps from `state` (None in the first window). `progress(step, mean token loss)`."""
        if (state is None) != (window.first == 0):
            raise ValueError("the first window starts without a state, every other one with the last window's state_out")
        m, current, steps = self.manifest, dict(state or {}), []
        layers, unit = m.model.layers, 2.0 ** -m.exponents["head/vocab.g"]
        for k in range(window.first, window.stop):
            result = self._step(k, current, window.stop == m.steps)
            current = dict(result.state)
            steps.append(result)
            if progress is not None:
                progress(k, result.loss * unit / m.loss_tokens[k])
        return WindowTrace(
            window,
            {n: np.concatenate([s.x[n] for s in steps]) for n in range(layers + 1)},
            {n: np.concatenate([s.dx[n] for s in steps]) for n in range(1, layers + 1)},
            steps[-1].state, steps[-1].delivered, np.array([s.loss for s in steps], dtype=np.int64),
            {n: np.concatenate([s.norms[n] for s in steps]) for n in steps[0].norms},
            np.concatenate([s.clip for s in steps if s.clip is not None]) if m.optimizer.clips else None,
        )

    def layer_inputs(self, layer: int, state: State) -> dict[tuple[str, str], IntArray]:
        inputs = {("base", name): array for name, array in self.base[f"base/{layer}"].items()}
        return inputs | {("state_in", name): array for name, array in state.get(layer, {}).items()}

    def _step(self, k: int, state: State, final: bool) -> _Step:
        m, step, result = self.manifest, StepRange(k, 1), _Step()
        embedding = {("embedding", "E"): self.base["embedding"]["E"]}
        result.x[0] = self._outputs(build(m, "embed", step), self.dataset | embedding, k)["x_out", "x"]
        graphs = [build(m, "layer", step, n, final) for n in range(m.model.layers)]
        for n, graph in enumerate(graphs):
            inputs = self.layer_inputs(n, state) | {("x_in", "x"): result.x[n]}
            result.x[n + 1] = self._outputs(graph, inputs, k, roles=("x_out",))["x_out", "x"]
        head = build(m, "head", step)
        inputs = self.dataset | {("x_in", "x"): result.x[m.model.layers]}
        inputs |= {("head", name): array for name, array in self.base["head"].items()}
        loss = head.tensors[loss_index(head)]
        found = self._outputs(head, inputs, k, extra=(loss,))
        result.dx[m.model.layers], result.loss = found["dx_out", "dx"], int(found["", "loss"][0])
        updated, means = ("state_out", "delivered"), dict[int, dict[str, IntArray]]()
        for n in reversed(range(m.model.layers)):
            inputs = self.layer_inputs(n, state) | {("x_in", "x"): result.x[n], ("dx_in", "dx"): result.dx[n + 1]}
            if m.optimizer.clips:
                found = self._outputs(graphs[n], inputs, k, ("dx_out", "norm"), mean_gradients(graphs[n], m))
                result.norms[n] = found["norm", "n"]
                means[n] = {name: v for (role, name), v in found.items() if role == ""}
            else:
                found = self._outputs(graphs[n], inputs, k, ("dx_out", *updated))
                self._keep(result, n, found)
            if n > 0:
                result.dx[n] = found["dx_out", "dx"]
        if m.optimizer.clips:
            norms = {(f"norm{n}", "n"): norm for n, norm in result.norms.items()}
            result.clip = self._outputs(build(m, "clip", step), norms, k, ("clip",))["clip", "factor"]
            for n, graph in enumerate(graphs):
                given = {t.index: means[n].pop(t.name) for t in mean_gradients(graph, m)}
                inputs = self.layer_inputs(n, state) | {("clip", "factor"): result.clip}
                self._keep(result, n, self._outputs(graph, inputs, k, updated, given=given))
        return result

    @staticmethod
    def _keep(result: _Step, layer: int, found: Arrays) -> None:
        result.state[layer] = {name: v for (role, name), v in found.items() if role == "state_out"}
        result.delivered[layer] = {name: v for (role, name), v in found.items() if role == "delivered"}

    def _outputs(
        self, graph: Graph, inputs: Arrays, step: int, roles: tuple[str, ...] = ("x_out", "dx_out"),
        extra: Sequence[Tensor] = (), given: Mapping[int, IntArray] | None = None,
    ) -> dict[tuple[str, str], IntArray]:
        """{(role, name): array} of the committed tensors of `roles`, and {("", name): array} of the `extra` ones."""
        wanted = {t.index: (op.commitment, op.tensor_name) for t, op in zip(graph.tensors, graph.ops, strict=True)
                  if isinstance(op, Committed) and op.commitment in roles}
        wanted |= {t.index: ("", t.name) for t in extra}
        values = evaluate(graph, inputs, [graph.tensors[i] for i in wanted], self.ops, given, step)
        return {key: values[i] for i, key in wanted.items()}


def loss_index(head: Graph) -> int:
    """The tensor Σ mask·index[label] of a head graph, whether it is published or not."""
    return next(t.index for t in head.tensors if t.name == "loss")


def mean_gradients(layer: Graph, manifest: RunManifest) -> list[Tensor]:
    """The committed mean gradients of a layer's graph: all that its updates need of forward and backward pass."""
    names = {f"{module}.{matrix}.mean" for module in manifest.lora.target_modules for matrix in MATRICES}
    return [t for t, op in zip(layer.tensors, layer.ops, strict=True) if t.name in names and isinstance(op, Committed)]
