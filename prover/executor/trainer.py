"""Exact integer LoRA training, window by window: boundary tensors are kept, everything else is recomputed by provers.

Per step: embed, every layer forward, head, every layer backward with its update. Forward values are dropped and
computed again in the backward pass, so memory is one layer's. With clipping the updates wait for the gradients of all
layers: mean gradients are kept, and the updates computed from them. Of several parts each goes forward and backward on its own, and
the updates wait for the gradients of all of them. Called by the training flow; its boundary tensors are what gets committed.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from protocol.manifest import RunManifest, StepRange
from protocol.relation.graph import Committed, Graph, IntArray, Tensor
from protocol.relation.model import build
from protocol.relation.update import MATRICES
from protocol.statement import Name, part_of
from prover.executor.evaluate import Ops, evaluate
from prover.executor.torch_ops import TorchOps

UPDATED = ("state_out", "delivered")
State = Mapping[int, Mapping[str, IntArray]]
Arrays = Mapping[tuple[str, str], IntArray]


@dataclass(frozen=True)
class WindowTrace:
    """x {0…L: [s,b,t,d]}, dx {1…L}, state_out {layer: {name: array}}, delivered (last window), loss [s]; with clipping
    norms {layer: [s]} and clip [s] (protocol/relation/clip.py), empty and None without; of several parts adapters {layer: {name: array}},
    gradients {(layer, part): {name: array}} (protocol/relation/parts.py), sums {part: {loss, tokens}} of all but the last, else empty.

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
    adapters: dict[int, dict[str, IntArray]] = field(default_factory=dict)
    gradients: dict[tuple[int, int], dict[str, IntArray]] = field(default_factory=dict)
    sums: dict[int, dict[str, IntArray]] = field(default_factory=dict)

    def commitments(self, window: int, parts: tuple[int, ...]) -> dict[Name, Mapping[str, IntArray]]:
        """The tensors of every commitment that a window adds by training; `parts` as the manifest numbers them."""
        found: dict[Name, Mapping[str, IntArray]] = {}
        for kind, layers in (("x", self.x), ("dx", self.dx)):
            for n, whole in layers.items():
                of_parts = zip(parts, np.split(whole, len(parts), axis=1), strict=True)
                found |= {part_of(f"{kind}/{n}", p, window): {kind: x} for p, x in of_parts}
        found |= {Name(f"state/{n}", window + 1): state for n, state in self.state_out.items()}
        found |= {Name(f"adapter/{n}", window): adapter for n, adapter in self.adapters.items()}
        found |= {part_of(f"gradient/{n}", p, window): gradient for (n, p), gradient in self.gradients.items()}
        found |= {part_of("loss", p, window): sums for p, sums in self.sums.items()}
        found |= {Name(f"norm/{n}", window): {"n": norm} for n, norm in self.norms.items()}
        if self.clip is not None:
            found[Name("clip", window)] = {"factor": self.clip}
        return found | {Name(f"delivered/{n}", window + 1): arrays for n, arrays in self.delivered.items() if arrays}


@dataclass
class _Step:
    """`x` and `dx` by layer, one array for each part."""

    x: defaultdict[int, list[IntArray]] = field(default_factory=lambda: defaultdict(list))
    dx: defaultdict[int, list[IntArray]] = field(default_factory=lambda: defaultdict(list))
    state: dict[int, dict[str, IntArray]] = field(default_factory=dict)
    delivered: dict[int, dict[str, IntArray]] = field(default_factory=dict)
    loss: int = 0
    norms: dict[int, IntArray] = field(default_factory=dict)
    clip: IntArray | None = None
    adapters: dict[int, dict[str, IntArray]] = field(default_factory=dict)
    gradients: dict[tuple[int, int], dict[str, IntArray]] = field(default_factory=dict)
    sums: dict[int, dict[str, IntArray]] = field(default_factory=dict)


@dataclass
class _Layer:
    """One layer within a step: the graph of its forward and backward pass, the graph that has its update (the same for a step in one
    task), inputs of both, and committed values that the update need not compute again."""

    graph: Graph
    update: Graph
    inputs: dict[tuple[str, str], IntArray]
    known: dict[tuple[str, str], IntArray]
    given: dict[int, IntArray] = field(default_factory=dict)


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
            {n: np.concatenate([np.concatenate(s.x.pop(n), axis=1) for s in steps]) for n in range(layers + 1)},
            {n: np.concatenate([np.concatenate(s.dx.pop(n), axis=1) for s in steps]) for n in range(1, layers + 1)},
            steps[-1].state, steps[-1].delivered, np.array([s.loss for s in steps], dtype=np.int64),
            {n: np.concatenate([s.norms[n] for s in steps]) for n in steps[0].norms},
            np.concatenate([s.clip for s in steps if s.clip is not None]) if m.optimizer.clips else None,
            {n: _stacked([s.adapters[n] for s in steps]) for n in steps[0].adapters},
            {key: _stacked([s.gradients[key] for s in steps]) for key in steps[0].gradients},
            {part: _stacked([s.sums[part] for s in steps]) for part in steps[0].sums},
        )

    def layer_inputs(self, layer: int, state: State) -> dict[tuple[str, str], IntArray]:
        return _as("base", self.base[f"base/{layer}"]) | _as("state_in", state.get(layer, {}))

    def _step(self, k: int, state: State, final: bool) -> _Step:
        m, result = self.manifest, _Step()
        layers = [self._layer(n, k, state, final, result) for n in range(m.model.layers)]
        for part in m.part_numbers:
            self._forward_backward(part, k, layers, result)
        if m.optimizer.clips:
            for n, layer in enumerate(layers if m.parts > 1 else []):
                found = self._outputs(layer.update, layer.known, k, ("norm",), mean_gradients(layer.update, m))
                self._take_norm(result, n, layer, found)
            norms = {(f"norm{n}", "n"): norm for n, norm in result.norms.items()}
            result.clip = self._outputs(build(m, "clip", StepRange(k, 1)), norms, k, ("clip",))["clip", "factor"]
        if m.optimizer.clips or m.parts > 1:
            for n, layer in enumerate(layers):
                inputs = layer.known | ({} if result.clip is None else {("clip", "factor"): result.clip})
                self._keep(result, n, self._outputs(layer.update, inputs, k, UPDATED, given=layer.given))
                layer.given.clear()
        return result

    def _layer(self, n: int, k: int, state: State, final: bool, result: _Step) -> _Layer:
        m, step = self.manifest, StepRange(k, 1)
        graph = build(m, "layer", step, n, final)
        if m.parts == 1:
            inputs = self.layer_inputs(n, state)
            return _Layer(graph, graph, inputs, inputs)
        update, known = build(m, "update", step, n, final), _as("state_in", state.get(n, {}))
        result.adapters[n] = _named("adapter", self._outputs(update, known, k, ("adapter",)))
        return _Layer(graph, update, self.layer_inputs(n, {}) | _as("adapter", result.adapters[n]), known)

    def _forward_backward(self, part: int, k: int, layers: Sequence[_Layer], result: _Step) -> None:
        """One part of a step (0: all of it), with updates where nothing else has to be known for them."""
        m, step = self.manifest, StepRange(k, 1)
        embedding = {("embedding", "E"): self.base["embedding"]["E"]}
        x = self._outputs(build(m, "embed", step, part=part), self.dataset | embedding, k)["x_out", "x"]
        result.x[0].append(x)
        for n, layer in enumerate(layers):
            x = self._outputs(layer.graph, layer.inputs | {("x_in", "x"): x}, k, roles=("x_out",))["x_out", "x"]
            result.x[n + 1].append(x)
        head = build(m, "head", step, part=part)
        inputs = self.dataset | _as("head", self.base["head"]) | {("x_in", "x"): x}
        found = self._outputs(head, inputs, k, ("dx_out", "loss"), (head.tensors[loss_index(head)],))
        dx = found["dx_out", "dx"]
        result.dx[len(layers)].append(dx)
        result.loss += int(found["", "loss"][0])
        if part != m.part_numbers[-1]:
            result.sums[part] = _named("loss", found)
        roles = ("dx_out", "gradient") if m.parts > 1 else ("dx_out", "norm") if m.optimizer.clips else ("dx_out", *UPDATED)
        for n, layer in reversed(list(enumerate(layers))):
            inputs = layer.inputs | {("x_in", "x"): result.x[n][-1], ("dx_in", "dx"): dx}
            extra = mean_gradients(layer.graph, m) if m.optimizer.clips and m.parts == 1 else []
            found = self._outputs(layer.graph, inputs, k, roles, extra)
            if m.parts > 1:
                result.gradients[n, part] = _named("gradient", found)
                layer.known |= _as(f"gradient{part}", result.gradients[n, part])
            elif m.optimizer.clips:
                self._take_norm(result, n, layer, found)
            else:
                self._keep(result, n, found)
            if n > 0:
                dx = found["dx_out", "dx"]
                result.dx[n].append(dx)

    def _take_norm(self, result: _Step, n: int, layer: _Layer, found: Arrays) -> None:
        result.norms[n] = found["norm", "n"]
        layer.given |= {t.index: found["", t.name] for t in mean_gradients(layer.update, self.manifest)}

    @staticmethod
    def _keep(result: _Step, layer: int, found: Arrays) -> None:
        result.state[layer], result.delivered[layer] = (_named(role, found) for role in UPDATED)

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


def _as(role: str, arrays: Mapping[str, IntArray]) -> dict[tuple[str, str], IntArray]:
    return {(role, name): array for name, array in arrays.items()}


def _named(role: str, found: Arrays) -> dict[str, IntArray]:
    return {name: array for (r, name), array in found.items() if r == role}


def _stacked(steps: Sequence[Mapping[str, IntArray]]) -> dict[str, IntArray]:
    """A window's arrays from those of its steps; a norm's γ is the same in all of them."""
    return {name: first if name.startswith("gamma") else np.concatenate([s[name] for s in steps]) for name, first in steps[0].items()}


def loss_index(head: Graph) -> int:
    """The tensor Σ mask·index[label] of a head graph, of its own part and whether it is published or not."""
    return next(t.index for t in head.tensors if t.name == "loss")


def mean_gradients(layer: Graph, manifest: RunManifest) -> list[Tensor]:
    """The committed mean gradients of a layer's graph: all that its updates need of forward and backward pass."""
    names = {f"{module}.{matrix}.mean" for module in manifest.lora.target_modules for matrix in MATRICES}
    return [t for t, op in zip(layer.tensors, layer.ops, strict=True) if t.name in names and isinstance(op, Committed)]
