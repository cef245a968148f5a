"""The relation of every task, and the contents of every commitment, as functions of the manifest.

`build(manifest, kind, …)` is what prover and verifier both call; `commitment_tensors` is what a commitment of a given
name contains, so that both lay it out alike. Kinds: "range" and "rotate" (a base commitment), "embed", "layer", "head", "clip", and
"update" (of a layer whose sequences several tasks have).
"""

from protocol.manifest import RunManifest, StepRange, base_commitments
from protocol.relation.base import axis_sizes, base_input, base_tensors
from protocol.relation.clip import build_clip
from protocol.relation.context import Context
from protocol.relation.embed import build_embed
from protocol.relation.graph import Graph, RelationError
from protocol.relation.head import build_head
from protocol.relation.layer import build_layer
from protocol.relation.parts import build_update, gamma_names
from protocol.relation.rounding import attach, range_check, signed_check
from protocol.relation.update import MATRICES, axes_of, state_names


def build(
    manifest: RunManifest, kind: str, window: StepRange | None = None, layer: int | str = 0, final: bool | None = None, part: int = 0
) -> Graph:
    """The graph of one task. `layer` is the layer, or for "range" the commitment's name; `part` one of the manifest's part_numbers for
    "embed" and "head" (a layer's is the same for all parts).

    `final` says whether the window delivers the adapter; by default, whether it ends the run. The executor passes it
    explicitly, because it builds graphs of single steps: the node list does not depend on the number of steps.
    """
    g = Graph()
    if kind == "range":
        _build_range(Context(g, manifest, StepRange(0, 1), ""), str(layer))
        return g
    if kind == "rotate":
        _build_rotate(g, manifest, str(layer))
        return g
    if window is None or window.first < 0 or window.count < 1 or window.stop > manifest.steps:
        raise RelationError(f"{kind}: no such window {window}")
    if kind in ("embed", "head"):
        if part not in manifest.part_numbers:
            raise RelationError(f"{kind}: no part {part} of {manifest.parts}")
        (build_embed if kind == "embed" else build_head)(Context(g, manifest, window, f"{kind}/", part))
    elif kind == "clip":
        build_clip(Context(g, manifest, window, "clip/"))
    elif (kind == "layer" or (kind == "update" and manifest.parts > 1)) and isinstance(layer, int) and 0 <= layer < manifest.model.layers:
        ends = window.stop == manifest.steps if final is None else final
        (build_layer if kind == "layer" else build_update)(Context(g, manifest, window, f"layer/{layer}/"), layer, window.first == 0, ends)
    else:
        raise RelationError(f"no task {kind} for layer {layer}")
    return g


def commitment_tensors(
    manifest: RunManifest, name: str, window: StepRange | None = None
) -> list[tuple[str, tuple[int, ...]]]:
    """[(tensor name, shape)] of base/{l}, embedding, head, dataset, x/{l}, dx/{l}, norm/{l}, clip, state/{l}, delivered/{l}; of several
    parts x/{l}/{p}, dx/{l}/{p}, adapter/{l}, gradient/{l}/{p}, loss/{p}."""
    size = axis_sizes(manifest) | ({"s": window.count} if window else {})
    kind = name.split("/")[0]
    if kind in ("base", "embedding", "head"):
        found = [(tensor, axes) for tensor, (axes, _, _) in base_tensors(manifest, kind).items()]
    elif kind in ("state", "delivered") or (kind in ("adapter", "gradient") and window is not None):
        steps = "s" if kind in ("adapter", "gradient") else ""
        matrices = [(f"{p}.{x}", steps + axes_of(p, x)) for p in manifest.lora.target_modules for x in MATRICES]
        found = matrices + [(gamma, "d") for gamma in gamma_names(manifest) if kind == "gradient"]
        if kind == "state":
            o = manifest.optimizer
            found += [(x, axes) for n, axes in matrices for x in state_names(n, o.kind, o.momentum_integer)]
    elif kind == "dataset":
        return [("tokens", (manifest.examples, manifest.sequence_length + 1)),
                ("mask", (manifest.examples, manifest.sequence_length))]
    elif kind in ("norm", "clip") and window is not None:
        return [("n" if kind == "norm" else "factor", (window.count,))]
    elif kind == "loss" and window is not None:
        return [("loss", (window.count,)), ("tokens", (window.count,))]
    elif kind in ("x", "dx") and window is not None:
        found = [(kind, "sbtd")]
    else:
        raise RelationError(f"no commitment is named {name}" + ("" if window else " outside a window"))
    return [(n, tuple(size[a] for a in axes)) for n, axes in found]


def _build_range(c: Context, name: str) -> None:
    """Every cell of a base commitment lies in its declared range; a tied head is the embedding with γ folded in."""
    g, m = c.g, c.m
    if name not in base_commitments(m.model):
        raise RelationError(f"no base commitment is named {name}")
    if name == "dataset":
        for tensor_name, shape in commitment_tensors(m, name):
            top = m.model.vocab - 1 if tensor_name == "tokens" else 1
            t = g.input(name, tensor_name, "et", shape, 0, top)
            range_check(g, t, max(top.bit_length(), 1), tensor_name)
            if top & (top + 1) or top == 0:
                rest = g.linear(f"{tensor_name}.rest", "et", (-1, t), const=top)
                range_check(g, rest, max(top.bit_length(), 1), f"{tensor_name}.rest")
        return
    found = {tensor: base_input(c, name, tensor) for tensor in base_tensors(m, name.split("/")[0])}
    for tensor, x in found.items():
        (signed_check if x.t.lo else range_check)(g, x.t, (x.t.hi - x.t.lo).bit_length(), tensor)
    if name == "head" and m.model.tied:
        folded = c.product("E_gamma", "vd,d->vd", base_input(c, "embedding", "E"), found["gamma_final"])
        attach(g, folded.t, folded.f - found["W"].f, found["W"].t)


def _build_rotate(g: Graph, m: RunManifest, name: str) -> None:
    """Every cell of the new commitment equals the old one's, whose range is proved."""
    for tensor_name, shape in commitment_tensors(m, name):
        old = g.input("old", tensor_name, "abcd"[: len(shape)], shape, -1 << 31, (1 << 31) - 1)
        attach(g, old, 0, g.commit(tensor_name, old.axes, shape, old.lo, old.hi, "new"))
