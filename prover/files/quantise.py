"""Exact, deterministic quantisation of model weights to integers with one power-of-two exponent per tensor.

    per tensor   X = round_half_even(x·2^f),  f = the largest integer with max|X| ≤ 2^(bits−1) − 1,  real value ≈ X·2^−f
    per row      X = round_half_even(x·2^f / σ_o),  σ_o = ⌈2^f·max|x_o| / (2^(bits−1) − 1)⌉ ≥ 1,  real value ≈ σ_o·X·2^−f
                 f = the largest integer with which every scale σ_o fits in its ROW_BITS − bits bits
    tied head    X = rescale(E∘γ_final, s) of the integers of the embedding and of γ, s = the least shift that makes it fit

Bit for bit reproducible by anybody (arithmetic.md: public values are reproducible): stored bf16, fp16 and fp32 values
are exact in float64; a folded weight W·diag(γ) is a product of two 24-bit significands, exact in float64's 53 bits;
multiplying by a power of two is exact; rounding a float64 to the nearest integer, ties to even, is exact; the divisions of
row scales are single IEEE operations. So no library's rounding or summation order enters. A tensor of zeros has f = 0.

RMSNorm's γ is folded into the frozen matrices behind it, and given as a tensor of its own for the compute copy of
lora_A (A∘γ). Axes: g kv head, q query head within the group, j head_dim index, d model width, f ffn, v vocabulary.
Names and widths are those of protocol/relation/base.py. Called by the planning of a run (base commitments).
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from protocol.model_config import PROJECTIONS, ModelConfig
from protocol.relation.base import ROW_BITS, bias_name
from protocol.relation.lora import OUT_AXES, WEIGHT
from protocol.relation.tables import round_shift
from prover.files.groups import KEEP_BYTES, Groups
from prover.files.hf_model import HfModel, LayerTensors

PART = 1 << 22
FINEST_BIAS = 20  # fractional bits of a bias: finer ones would only widen the sum that it enters


class Quantised(NamedTuple):
    """`values` int64, real value = values · 2^−exponent."""

    values: np.ndarray
    exponent: int


def quantise(x: np.ndarray, bits: int, largest_exponent: int | None = None) -> Quantised:
    """Quantises finite `x` (any shape, float32 or float64) to `bits` bits with sign.

    `largest_exponent` caps f, for callers that bound the shift of a product's rescale. ValueError for other input.
    """
    if not 2 <= bits <= 32:
        raise ValueError(f"bits must be from 2 to 32, found {bits}")
    given = np.asarray(x)
    values = np.zeros(given.shape, dtype=np.int64)
    parts = list(zip(_parts(given), _parts(values), strict=True))
    if not all(np.isfinite(part).all() for part, _ in parts):
        raise ValueError("only finite values can be quantised")
    peak = max((float(np.max(np.abs(part), initial=0.0)) for part, _ in parts), default=0.0)
    if peak == 0.0:
        return Quantised(values, 0)
    # peak = m·2^e with m in [1/2, 1): peak·2^(bits−1−e) < 2^(bits−1), and only its rounding can reach that power.
    exponent = bits - 1 - int(np.frexp(peak)[1])
    if np.rint(np.ldexp(peak, exponent)) > 2 ** (bits - 1) - 1:
        exponent -= 1
    if largest_exponent is not None:
        exponent = min(exponent, largest_exponent)
    for part, out in parts:
        out[...] = np.rint(np.ldexp(part.astype(np.float64), exponent))
    return Quantised(values, exponent)


def _parts(x: np.ndarray) -> Iterator[np.ndarray]:
    """Views of at most PART cells or one row, so that what is computed on the way takes little memory."""
    if x.ndim == 0:
        return iter((x,))
    rows = max(1, PART * len(x) // max(x.size, 1))
    return (x[start : start + rows] for start in range(0, len(x), rows))


def dequantise(tensor: Quantised) -> np.ndarray:
    """values · 2^−exponent in float64, exact."""
    result: np.ndarray = np.ldexp(tensor.values.astype(np.float64), -tensor.exponent)
    return result


def fold(weight: np.ndarray, gamma: np.ndarray) -> np.ndarray:
    """W·diag(γ) [.., d] in float64, exact for float32 arguments."""
    product: np.ndarray = np.multiply(weight, gamma, dtype=np.float64)
    return product


def quantise_rows(x: np.ndarray, bits: int, row_axes: int) -> tuple[Quantised, Quantised]:
    """(X, σ): the first `row_axes` axes of `x` name its rows; the scales' exponent is 0, X carries f."""
    wide = np.asarray(x, dtype=np.float64)
    limit, top = 2 ** (bits - 1) - 1, 2 ** (ROW_BITS - bits) - 1
    steps = np.abs(wide).reshape(*wide.shape[:row_axes], -1).max(axis=-1) / limit
    largest = float(steps.max())
    if not np.isfinite(largest):
        raise ValueError("only finite values can be quantised")
    exponent = int(np.frexp(top / largest)[1]) if largest else 0
    while np.ceil(np.ldexp(largest, exponent)) > top:
        exponent -= 1
    scale = np.maximum(np.ceil(np.ldexp(steps, exponent)), 1)
    by_row = scale.reshape(*scale.shape, *[1] * (wide.ndim - row_axes))
    values = np.rint(np.ldexp(wide, exponent) / by_row)
    return Quantised(values.astype(np.int64), exponent), Quantised(scale.astype(np.int64), 0)


def real_layer(config: ModelConfig, tensors: LayerTensors) -> dict[str, np.ndarray]:
    """One layer from HfModel.layer(l) under the relation's names, γ folded in, exact in float64.

    W_q [g,q,j,d], W_k [g,j,d], W_v [g,j,d], W_o [d,g,q,j], W_gate [f,d], W_up [f,d], W_down [d,f]; biases b_q [g,q,j] …;
    gamma_attn [d], gamma_mlp [d], gamma_q [j], gamma_k [j].
    """
    sizes = {"g": config.kv_heads, "q": config.queries_per_group, "j": config.head_dim, "d": config.hidden, "f": config.ffn}
    gamma_attn, gamma_mlp = tensors["input_layernorm"], tensors["post_attention_layernorm"]
    behind = dict.fromkeys(("q_proj", "k_proj", "v_proj"), gamma_attn) | dict.fromkeys(("gate_proj", "up_proj"), gamma_mlp)
    found: dict[str, np.ndarray] = {}
    for module in PROJECTIONS:
        out = [sizes[a] for a in OUT_AXES[module]]
        weight = fold(tensors[module], behind[module]) if module in behind else tensors[module]
        inner = [sizes[a] for a in "gqj"] if module == "o_proj" else [-1]
        found[WEIGHT[module]] = weight.astype(np.float64).reshape(*out, *inner)
        if module in config.biased:
            found[bias_name(module)] = tensors[f"{module}.bias"].reshape(out)
    found |= {"gamma_attn": gamma_attn, "gamma_mlp": gamma_mlp}
    return found | ({f"gamma_{x}": tensors[f"{x}_norm"] for x in ("q", "k")} if config.qk_norm else {})


def quantise_layer(
    config: ModelConfig, tensors: LayerTensors, widths: Mapping[str, int], weight_scales: str = "tensor"
) -> dict[str, Quantised]:
    """One layer from HfModel.layer(l), as commitment base/{l} holds it."""
    result, modules = {}, {w: module for module, w in WEIGHT.items()}
    for name, value in real_layer(config, tensors).items():
        if name in modules and weight_scales == "row":
            result[name], result[f"{name}.scale"] = quantise_rows(value, widths["weight"], len(OUT_AXES[modules[name]]))
        elif name in modules:
            result[name] = quantise(value, widths["weight"])
        elif name.startswith("b_"):
            result[name] = quantise(value, widths["bias"], FINEST_BIAS)
        else:
            result[name] = quantise(value, widths["gamma"])
    return result


def quantise_head(
    head: np.ndarray, final_norm: np.ndarray, widths: Mapping[str, int], weight_scales: str = "tensor"
) -> dict[str, Quantised]:
    """An untied head: W [v,d] with the final norm folded in, and W.scale [v] with scales by row."""
    folded = fold(head, final_norm)
    if weight_scales == "row":
        weight, scale = quantise_rows(folded, widths["head"], 1)
        return {"W": weight, "W.scale": scale}
    return {"W": quantise(folded, widths["head"])}


def tied_head(embedding: Quantised, final_norm: np.ndarray, widths: Mapping[str, int]) -> dict[str, Quantised]:
    """The head of a tied model: what its range task proves about the embedding's integers."""
    gamma, limit = quantise(final_norm, widths["gamma"]), 2 ** (widths["head"] - 1) - 1
    exact = embedding.values * gamma.values
    lowest, highest, shift = int(exact.min()), int(exact.max()), 0
    while round_shift(highest, shift) > limit or round_shift(lowest, shift) < -limit - 1:
        shift += 1
    values = exact if shift == 0 else (exact + (1 << shift - 1)) >> shift
    return {"W": Quantised(values, embedding.exponent + gamma.exponent - shift), "gamma_final": gamma}


def quantise_base(
    model: HfModel, widths: Mapping[str, int], weight_scales: str = "tensor", keep: int = KEEP_BYTES
) -> tuple[Groups, dict[str, int]]:
    """All base commitments: integers by commitment and tensor, and exponents by "commitment/tensor". Every group is quantised
    once for its exponents and again whenever it is asked for and not among the `keep` bytes of those used last."""

    def make(name: str) -> dict[str, Quantised]:
        kind, _, layer = name.partition("/")
        if kind == "base":
            return quantise_layer(model.config, model.layer(int(layer)), widths, weight_scales)
        if kind == "embedding":
            return {"E": quantise(model.embedding(), widths["embedding"])}
        if model.config.tied:
            return tied_head(quantise(model.head(), widths["embedding"]), model.final_norm(), widths)
        return quantise_head(model.head(), model.final_norm(), widths, weight_scales)

    exponents: dict[str, int] = {}

    def integers(name: str) -> dict[str, np.ndarray]:
        found = make(name)
        exponents.update({f"{name}/{k}": x.exponent for k, x in found.items()})
        return {k: x.values for k, x in found.items()}

    base = Groups([*(f"base/{n}" for n in range(model.config.layers)), "embedding", "head"], integers, keep)
    for name in base:
        base[name]  # the exponents, and the first groups kept
    return base, dict(exponents)
