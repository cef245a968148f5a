"""The frozen weights: names, axes and ranges in the base commitments, and how a task reads them (arithmetic.md 2, 3).

    base/{l}    W_q … W_down [out, in], γ of the norm before them folded in; b_q … b_down [out] where the model has biases;
                gamma_attn, gamma_mlp [d], and gamma_q, gamma_k [j] with q/k norm
    embedding   E [v,d]
    head        W [v,d], γ of the final norm folded in; of a tied model W = rescale(E∘γ_final) and gamma_final [d]

With weight_scales "row" a real weight is scale[out]·W[out, in]: tensors W_q.scale … W_down.scale [out] and W.scale [v] without
sign, of ROW_BITS − (bits of W) bits: 8 beside 12-bit weights, 4 beside 16-bit ones. A tied head has one scale in any case.
"""

from protocol.manifest import RunManifest
from protocol.relation.context import Context, Fixed
from protocol.relation.lora import IN_AXES, OUT_AXES, WEIGHT, Weight

ROW_BITS = 20  # of scale·W: what the bounds of products with weights leave room for


def axis_sizes(m: RunManifest) -> dict[str, int]:
    """Lengths of the axis letters that do not depend on the window."""
    x = m.model
    return {"b": m.part_sequences, "t": m.sequence_length, "d": x.hidden, "g": x.kv_heads, "q": x.queries_per_group,
            "j": x.head_dim, "f": x.ffn, "r": m.lora.r, "v": x.vocab, "e": m.examples}


def bias_name(module: str) -> str:
    return "b" + WEIGHT[module][1:]


def base_tensors(m: RunManifest, kind: str) -> dict[str, tuple[str, int, int]]:
    """{tensor: (axes, smallest, largest value)} of a commitment base/{l}, embedding or head, by its kind."""
    found = {}

    def matrix(name: str, axes: str, rows: str, width: str) -> None:
        found[name] = (axes, *_signed(m.widths[width]))
        if rows:
            found[f"{name}.scale"] = (rows, 0, (1 << ROW_BITS - m.widths[width]) - 1)

    if kind == "embedding":
        matrix("E", "vd", "", "embedding")
        return found
    if kind == "head":
        matrix("W", "vd", "v" if m.weight_scales == "row" and not m.model.tied else "", "head")
        gammas = {"gamma_final": "d"} if m.model.tied else {}
    else:
        for module, w in WEIGHT.items():
            out = OUT_AXES[module]
            matrix(w, out + IN_AXES[module], out if m.weight_scales == "row" else "", "weight")
            if module in m.model.biased:
                found[bias_name(module)] = (out, *_signed(m.widths["bias"]))
        gammas = {"gamma_attn": "d", "gamma_mlp": "d"} | ({"gamma_q": "j", "gamma_k": "j"} if m.model.qk_norm else {})
    return found | {name: (axes, *_signed(m.widths["gamma"])) for name, axes in gammas.items()}


def _signed(bits: int) -> tuple[int, int]:
    return -(1 << bits - 1), (1 << bits - 1) - 1


def base_input(c: Context, commitment: str, name: str) -> Fixed:
    """A tensor of the commitment "base/3", "embedding" or "head", in the role of its kind."""
    role = commitment.split("/")[0]
    axes, lo, hi = base_tensors(c.m, role)[name]
    sizes = axis_sizes(c.m)
    return Fixed(c.g.input(role, name, axes, [sizes[a] for a in axes], lo, hi), c.exponent(f"/{commitment}/{name}"))


def base_weight(c: Context, commitment: str, name: str, bias: str = "") -> Weight:
    """A matrix with its scale and bias, where it has them."""
    names = base_tensors(c.m, commitment.split("/")[0])
    scale, added = (base_input(c, commitment, n) if n in names else None for n in (f"{name}.scale", bias))
    return Weight(base_input(c, commitment, name), scale, added)
