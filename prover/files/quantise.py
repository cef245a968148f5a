"""Exact, deterministic quantisation of model weights to integers with one power-of-two exponent per tensor.

    X = round_half_even(x · 2^f),   f = the largest integer with max|X| ≤ 2^(bits−1) − 1,   real value ≈ X · 2^−f

Bit for bit reproducible by anybody (arithmetic.md: public values are reproducible): stored bf16, fp16 and fp32 values
are exact in float64; a folded weight W·diag(γ) is a product of two 24-bit significands, exact in float64's 53 bits;
multiplying by a power of two is exact; rounding a float64 to the nearest integer, ties to even, is exact. So no step
rounds except the one that the equation names, and no library's rounding or summation order enters. A tensor of zeros
has f = 0.

RMSNorm's γ is folded into the frozen matrices behind it, and given as a tensor of its own for the compute copy of
lora_A (A∘γ). Axes: g kv head, q query head within the group, j head_dim index, d model width, f ffn, v vocabulary.
Called by the planning of a run (base commitment) and by the calibration.
"""

from typing import NamedTuple

import numpy as np

from protocol.model_config import ModelConfig
from prover.files.hf_model import LayerTensors

WEIGHT_BITS = 12
NORM_BITS = 16
EMBEDDING_BITS = 16
HEAD_BITS = 12


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
    wide = np.asarray(x, dtype=np.float64)
    if not np.isfinite(wide).all():
        raise ValueError("only finite values can be quantised")
    peak = float(np.max(np.abs(wide), initial=0.0))
    if peak == 0.0:
        return Quantised(np.zeros(wide.shape, dtype=np.int64), 0)
    # peak = m·2^e with m in [1/2, 1): peak·2^(bits−1−e) < 2^(bits−1), and only its rounding can reach that power.
    exponent = bits - 1 - int(np.frexp(peak)[1])
    if np.rint(np.ldexp(peak, exponent)) > 2 ** (bits - 1) - 1:
        exponent -= 1
    if largest_exponent is not None:
        exponent = min(exponent, largest_exponent)
    return Quantised(np.rint(np.ldexp(wide, exponent)).astype(np.int64), exponent)


def dequantise(tensor: Quantised) -> np.ndarray:
    """values · 2^−exponent in float64, exact."""
    result: np.ndarray = np.ldexp(tensor.values.astype(np.float64), -tensor.exponent)
    return result


def fold(weight: np.ndarray, gamma: np.ndarray) -> np.ndarray:
    """W·diag(γ) [.., d] in float64, exact for float32 arguments."""
    product: np.ndarray = np.multiply(weight, gamma, dtype=np.float64)
    return product


def quantise_layer(
    config: ModelConfig, tensors: LayerTensors, weight_bits: int = WEIGHT_BITS, norm_bits: int = NORM_BITS
) -> dict[str, Quantised]:
    """One layer from HfModel.layer(l).

    W_q [g,q,j,d], W_k [g,j,d], W_v [g,j,d], W_gate [f,d], W_up [f,d] with the norm before them folded in;
    W_o [d,g,q,j], W_down [d,f] as stored; gamma_attn [d], gamma_mlp [d].
    """
    g, q, j, d = config.kv_heads, config.queries_per_group, config.head_dim, config.hidden
    gamma_attn, gamma_mlp = tensors["input_layernorm"], tensors["post_attention_layernorm"]
    weights = {
        "W_q": fold(tensors["q_proj"], gamma_attn).reshape(g, q, j, d),
        "W_k": fold(tensors["k_proj"], gamma_attn).reshape(g, j, d),
        "W_v": fold(tensors["v_proj"], gamma_attn).reshape(g, j, d),
        "W_o": tensors["o_proj"].reshape(d, g, q, j),
        "W_gate": fold(tensors["gate_proj"], gamma_mlp),
        "W_up": fold(tensors["up_proj"], gamma_mlp),
        "W_down": tensors["down_proj"],
    }
    result = {name: quantise(value, weight_bits) for name, value in weights.items()}
    return result | {"gamma_attn": quantise(gamma_attn, norm_bits), "gamma_mlp": quantise(gamma_mlp, norm_bits)}


def quantise_embedding(table: np.ndarray, bits: int = EMBEDDING_BITS) -> Quantised:
    """E [v,d] from HfModel.embedding()."""
    return quantise(table, bits)


def quantise_head(head: np.ndarray, final_norm: np.ndarray, bits: int = HEAD_BITS) -> Quantised:
    """W_head [v,d] with the final norm folded in, from HfModel.head() and HfModel.final_norm()."""
    return quantise(fold(head, final_norm), bits)
