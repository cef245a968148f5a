"""The relation of every task, and the contents of every commitment, as functions of the manifest.

`build(manifest, kind, …)` is what prover and verifier both call; `commitment_tensors` is what a commitment of a given
name contains, so that both lay it out alike. Kinds: "range" (a base commitment), "embed", "layer", "head".
"""

from protocol.manifest import RunManifest, StepRange, base_commitments
from protocol.relation.context import Context
from protocol.relation.embed import build_embed
from protocol.relation.graph import Graph, RelationError
from protocol.relation.head import build_head
from protocol.relation.layer import axis_sizes, build_layer
from protocol.relation.lora import IN_AXES, OUT_AXES, WEIGHT
from protocol.relation.rounding import range_check, signed_check
from protocol.relation.update import MATRICES, axes_of, momentum_name


def build(
    manifest: RunManifest, kind: str, window: StepRange | None = None, layer: int | str = 0, final: bool | None = None
) -> Graph:
    """The graph of one task. `layer` is the layer, or for "range" the commitment's name.

    `final` says whether the window delivers the adapter; by default, whether it ends the run. The executor passes it
    explicitly, because it builds graphs of single steps: the node list does not depend on the number of steps.
    """
    g = Graph()
    if kind == "range":
        _build_range(g, manifest, str(layer))
        return g
    if window is None or window.first < 0 or window.count < 1 or window.stop > manifest.steps:
        raise RelationError(f"{kind}: no such window {window}")
    if kind == "embed":
        build_embed(Context(g, manifest, window, "embed/"))
    elif kind == "head":
        build_head(Context(g, manifest, window, "head/"))
    elif kind == "layer" and isinstance(layer, int) and 0 <= layer < manifest.model.layers:
        ends = window.stop == manifest.steps if final is None else final
        build_layer(Context(g, manifest, window, f"layer/{layer}/"), layer, window.first == 0, ends)
    else:
        raise RelationError(f"no task {kind} for layer {layer}")
    return g


def commitment_tensors(
    manifest: RunManifest, name: str, window: StepRange | None = None
) -> list[tuple[str, tuple[int, ...]]]:
    """[(tensor name, shape)] of base/{l}, embedding, head, dataset, x/{l}, dx/{l}, state/{l}, delivered/{l}."""
    m, size = manifest.model, axis_sizes(manifest)
    kind = name.split("/")[0]
    if kind == "base":
        found = [(w, OUT_AXES[p] + IN_AXES[p]) for p, w in WEIGHT.items()] + [("gamma_attn", "d"), ("gamma_mlp", "d")]
    elif kind in ("state", "delivered"):
        matrices = [(f"{p}.{x}", axes_of(p, x)) for p in manifest.lora.target_modules for x in MATRICES]
        found = list(matrices)
        if kind == "state" and manifest.optimizer.momentum_integer:
            found += [(momentum_name(n), axes) for n, axes in matrices]
    elif kind in ("embedding", "head"):
        found = [("E" if kind == "embedding" else "W", "vd")]
    elif kind == "dataset":
        return [("tokens", (manifest.examples, manifest.sequence_length + 1)),
                ("mask", (manifest.examples, manifest.sequence_length))]
    elif kind in ("x", "dx") and window is not None:
        return [(kind, (window.count, manifest.batch_size, manifest.sequence_length, m.hidden))]
    else:
        raise RelationError(f"no commitment is named {name}" + ("" if window else " outside a window"))
    return [(n, tuple(size[a] for a in axes)) for n, axes in found]


def _build_range(g: Graph, m: RunManifest, name: str) -> None:
    """Every cell of a base commitment lies in its declared range."""
    if name not in base_commitments(m.model):
        raise RelationError(f"no base commitment is named {name}")
    role = name.split("/")[0]
    for tensor_name, shape in commitment_tensors(m, name):
        axes = "abcd"[: len(shape)]
        if role == "dataset":
            top = m.model.vocab - 1 if tensor_name == "tokens" else 1
            t = g.input(role, tensor_name, axes, shape, 0, top)
            range_check(g, t, max(top.bit_length(), 1), tensor_name)
            if top & (top + 1) or top == 0:
                rest = g.linear(f"{tensor_name}.rest", axes, (-1, t), const=top)
                range_check(g, rest, max(top.bit_length(), 1), f"{tensor_name}.rest")
            continue
        width = "gamma" if tensor_name.startswith("gamma") else {"base": "weight"}.get(role, role)
        half = 1 << m.widths[width] - 1
        t = g.input(role, tensor_name, axes, shape, -half, half - 1)
        signed_check(g, t, m.widths[width], tensor_name)
