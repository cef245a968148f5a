"""Exponents of a run from a few float64 LoRA steps (arithmetic.md, section 5).

    f = bits − 1 − headroom − ⌈log2 max|value|⌉

Headroom in bits: activations 2, u 4, gradients 3, du 6, LoRA gradients 7. Maxima are rounded up to powers of two, so
equal floats give equal exponents and small differences rarely show. Coarse gradients are capped so that the sum they
enter shifts by at most 16: one remainder limb. Called when a run is planned; the result is part of the manifest.
"""

from dataclasses import dataclass, replace
from math import floor, frexp, isfinite, log2

from protocol.manifest import RunManifest
from protocol.relation.graph import IntArray
from protocol.relation.lora import BEHIND_NORM
from protocol.relation.norm import R_BITS, V_BITS
from protocol.relation.softmax import LAST
from protocol.relation.update import COMPUTE_BITS
from prover.executor.float_model import Base, FloatRun

SOFTMAX_FINEST = 10
DEFAULT = 14  # exponent of a tensor that was zero throughout
TARGET_OF = {"q_proj": "attn_norm.dx", "k_proj": "attn_norm.dx", "v_proj": "attn_norm.dx", "o_proj": "dO",
             "gate_proj": "mlp_norm.dx", "up_proj": "mlp_norm.dx", "down_proj": "dz"}


@dataclass(frozen=True)
class Headroom:
    """One line of the calibration's report: bits left above the largest value that was seen."""

    key: str
    maximum: float
    exponent: int
    bits: int
    headroom: int


@dataclass(frozen=True)
class Calibration:
    exponents: dict[str, int]
    table: list[Headroom]
    losses: list[float]


class CalibrationError(ValueError):
    """The float run diverged, or a magnitude is beyond what exponents can express."""


def _ceil_log2(maximum: float) -> int:
    mantissa, exponent = frexp(maximum)
    return exponent - 1 if mantissa == 0.5 else exponent


def calibrate(
    manifest: RunManifest, base: Base, tokens: IntArray, mask: IntArray, steps: int = 12
) -> Calibration:
    """`manifest.exponents` holds those of the base arrays ("base/0/W_q" …); the result holds them and all others."""
    run = FloatRun(manifest, base, tokens, mask)
    losses = [run.step(k) for k in range(steps)]
    wild = [key for key, maximum in run.maxima.items() if not maximum < 2.0**60]
    if wild or not all(map(isfinite, losses)):
        raise CalibrationError(f"training diverged in {steps} float64 steps (losses {losses}; {', '.join(wild[:3])}): "
                               "lower the learning rate")
    exponents, table, widths = dict(manifest.exponents), [], manifest.widths

    def place(key: str, bits: int, headroom: int, cap: int | None = None) -> int:
        maximum = run.maxima.get(key, 0.0)
        f = bits - 1 - headroom - _ceil_log2(maximum) if maximum > 0 else DEFAULT
        exponents[key] = f if cap is None else min(f, cap)
        table.append(Headroom(key, maximum, exponents[key], bits, headroom))
        return exponents[key]

    place("x", widths["residual"], 3)
    norms = ["head/norm"] + [f"layer/{n}/{k}" for n in range(manifest.model.layers) for k in ("attn_norm", "mlp_norm")]
    for key in norms:
        exponents[f"{key}.V"] = _ceil_log2(run.maxima[f"{key}.sum"]) + 2 * exponents["x"] - (V_BITS - 2)
        place(f"{key}.r", R_BITS + 1, 2)
        place(f"{key}.out", widths["activation"], 2)
        place(f"{key}.dx", widths["gradient"], 3)
    softmaxes = ["head/vocab"] + [f"layer/{n}/attn" for n in range(manifest.model.layers)]
    for key in softmaxes:
        spread = max(run.maxima[f"{key}.spread"], 2.0**-6)
        exponents[f"{key}.g"] = max(0, min(SOFTMAX_FINEST, floor(log2(LAST / spread)) - 1))
    for n in range(1, manifest.model.layers + 1):
        place(f"dx/{n}", widths["gradient"], 3)
    for n in range(manifest.model.layers):
        p = f"layer/{n}/"
        for key in ("q", "k", "v", "gate", "up", "z"):
            place(p + key, widths["activation"], 2)
        for key in ("dz", "dgate", "dup", "dh", "dO", "dS", "dq", "dk", "dv"):
            place(p + key, widths["gradient"], 3)
        for module in manifest.lora.target_modules:
            m = p + module
            copy = place(f"{m}.lora_A.copy", widths["compute"], 3, COMPUTE_BITS) if module in BEHIND_NORM else COMPUTE_BITS
            place(f"{m}.u", widths["activation"], 4)
            fine = place(f"{m}.du", widths["du"], 6)
            coarse = fine - widths["du"] + widths["gradient"]
            exponents[f"{m}.du_coarse"] = min(coarse, exponents[p + TARGET_OF[module]] + 16 - copy)
            for matrix in ("lora_A", "lora_B"):
                place(f"{m}.{matrix}.grad", widths["lora_gradient"], 7)
                run.maxima[f"{m}.{matrix}.mean"] = max(run.maxima.get(f"{m}.{matrix}.{x}", 0.0) for x in ("mean", "momentum"))
                place(f"{m}.{matrix}.mean", widths["momentum"], 7)
    return Calibration(exponents, table, losses)


def calibrated(manifest: RunManifest, base: Base, tokens: IntArray, mask: IntArray, steps: int = 12) -> RunManifest:
    """The manifest with its exponents filled in."""
    return replace(manifest, exponents=calibrate(manifest, base, tokens, mask, steps).exponents)
