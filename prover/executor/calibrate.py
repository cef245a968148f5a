"""Exponents of a run from a few LoRA steps in floating point (arithmetic.md, section 5).

    f = bits − 1 − headroom − ⌈log2 max|value|⌉

Headroom in bits: activations 2, u 4, gradients 3, du 6, LoRA gradients 7, mean gradients 7, or 5 where they are squared
(AdamW, clipping) and where they are clipped, everywhere plus `extra_headroom`. The steps are taken at the peak learning
rate, whatever the schedule: B has to leave 0 for A's gradients to be seen. Maxima are rounded up to powers of two, so equal
floats give equal exponents and small differences rarely show: float32 is exact enough for activations, whose headroom is whole
bits. Coarse gradients are capped so that the sum they enter shifts by at most 16: one remainder limb. Called when a run is planned;
the result is part of the manifest.
"""

from dataclasses import dataclass, replace
from math import floor, frexp, isfinite, log2

import torch

from protocol.errors import VerificationError
from protocol.manifest import RunManifest
from protocol.relation.clip import FACTOR_BITS, ROW_BITS
from protocol.relation.graph import IntArray, RelationError
from protocol.relation.lora import BEHIND_NORM
from protocol.relation.model import build
from protocol.relation.norm import R_BITS, V_BITS
from protocol.relation.softmax import LAST
from protocol.relation.update import COMPUTE_BITS
from prover.executor.float_model import Base, FloatRun
from prover.progress import Tell, silent

SOFTMAX_FINEST = 10
DEFAULT = 14  # exponent of a tensor that was zero throughout
ROW_NORM_TOP, LAYER_NORM_TOP = 20, 29  # log2 of the largest squared norms seen: of ROW_BITS 36, NORM_BITS 40
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
    """The float run diverged, or magnitudes are beyond what exponents or the relation can express: too large, or nearly 0."""


def _ceil_log2(maximum: float) -> int:
    mantissa, exponent = frexp(maximum)
    return exponent - 1 if mantissa == 0.5 else exponent


def calibrate(
    manifest: RunManifest, base: Base, tokens: IntArray, mask: IntArray, steps: int = 12, extra_headroom: int = 0,
    device: str = "cpu", tell: Tell = silent,
) -> Calibration:
    """`manifest.exponents` holds those of the base arrays ("base/0/W_q" …); the result holds them and all others."""
    peak = replace(manifest.optimizer, schedule="constant", warmup_steps=0)
    run = FloatRun(replace(manifest, optimizer=peak), base, tokens, mask, device, torch.float32)
    losses = list[float]()
    for k in range(steps):
        tell(f"calibrating exponents: step {k + 1} of {steps}, {len(manifest.batch(k)) * manifest.sequence_length} tokens")
        losses.append(run.step(k))
    wild = [key for key, maximum in run.maxima.items() if not maximum < 2.0**60]
    if wild or not all(map(isfinite, losses)):
        raise CalibrationError(f"training diverged in {steps} floating-point steps (losses {losses}; {', '.join(wild[:3])}): "
                               "lower the learning rate")
    exponents, table, widths = dict(manifest.exponents), [], manifest.widths

    def place(key: str, bits: int, headroom: int, cap: int | None = None) -> int:
        maximum, headroom = run.maxima.get(key, 0.0), headroom + extra_headroom
        f = bits - 1 - headroom - _ceil_log2(maximum) if maximum > 0 else DEFAULT
        exponents[key] = f if cap is None else min(f, cap)
        table.append(Headroom(key, maximum, exponents[key], bits, headroom))
        return exponents[key]

    place("x", widths["residual"], 3)
    norms = {"head/norm": "x"} | {f"layer/{n}/{k}": "x" for n in range(manifest.model.layers) for k in ("attn_norm", "mlp_norm")}
    for name in ("q", "k") if manifest.model.qk_norm or manifest.weight_scales == "row" else ():
        for p in [f"layer/{n}/{name}" for n in range(manifest.model.layers)]:
            place(f"{p}_proj.y", widths["residual"], 2)
            if manifest.model.qk_norm:
                place(f"{p}_norm.dy", widths["gradient"], 3)
                norms[f"{p}_norm"] = f"{p}_proj.y"
    for key, normed in norms.items():
        exponents[f"{key}.V"] = _ceil_log2(run.maxima[f"{key}.sum"]) + 2 * exponents[normed] - (V_BITS - 2) + extra_headroom
        place(f"{key}.r", R_BITS + 1, 2)
        place(f"{key}.out", widths["activation"], 2)
        place(f"{key}.dx", widths["gradient"], 3)
    softmaxes = ["head/vocab"] + [f"layer/{n}/attn" for n in range(manifest.model.layers)]
    for key in softmaxes:
        spread = max(run.maxima[f"{key}.spread"], 2.0**-6)
        exponents[f"{key}.g"] = max(0, min(SOFTMAX_FINEST, floor(log2(LAST / spread)) - 1 - extra_headroom))
    for n in range(1, manifest.model.layers + 1):
        place(f"dx/{n}", widths["gradient"], 3)
    squared = manifest.optimizer.clips or manifest.optimizer.kind == "adamw"
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
                if squared:
                    place(f"{m}.{matrix}.mean", widths["moment"], 5)
                    continue
                run.maxima[f"{m}.{matrix}.mean"] = max(run.maxima.get(f"{m}.{matrix}.{x}", 0.0) for x in ("mean", "momentum"))
                place(f"{m}.{matrix}.mean", widths["momentum"], 7)
    if manifest.optimizer.clips:
        row, whole, spare = run.maxima["norm.row"], run.maxima["norm.layer"], 2 * extra_headroom
        f = min(ROW_NORM_TOP - _ceil_log2(row), LAYER_NORM_TOP - _ceil_log2(whole)) - spare if whole else DEFAULT
        means = [key for key in exponents if key.endswith(".mean")]
        exponents["norm"] = min(f - f % 2, 2 * min(exponents[key] for key in means))
        for key in means:  # squares of a module whose gradients are tiny beside the others' shift by 56 at most
            exponents[key] = min(exponents[key], exponents["norm"] // 2 + 28)
            place(key.removesuffix("mean") + "clipped", widths["moment"], 5, exponents[key] + FACTOR_BITS)
        table.append(Headroom("norm", row, exponents["norm"], ROW_BITS, ROW_BITS - 1 - ROW_NORM_TOP + spare))
    tell("trying the relation of every task with these exponents")
    _require_relation(manifest, exponents)
    return Calibration(exponents, table, losses)


def _require_relation(manifest: RunManifest, exponents: dict[str, int]) -> None:
    """CalibrationError unless a manifest may have these exponents and every task of a whole window has a relation with them."""
    of_layers = ("layer", "update") if manifest.parts > 1 else ("layer",)
    kinds = [("embed", 0), ("head", 0), *[(kind, n) for kind in of_layers for n in range(manifest.model.layers)]]
    try:
        whole = replace(manifest, exponents=exponents)
        for kind, layer in kinds + [("clip", 0)] * manifest.optimizer.clips:
            build(whole, kind, whole.windows()[0], layer, part=whole.part_numbers[-1])
    except (RelationError, VerificationError) as error:
        smallest = sorted(exponents, key=lambda key: -exponents[key])[:3]
        reason = str(error) if isinstance(error, RelationError) else "an exponent is not between −96 and 96"
        raise CalibrationError(f"no relation can hold magnitudes this far apart ({reason}); finest exponents: "
                               f"{', '.join(f'{key} {exponents[key]}' for key in smallest)}. Gradients that nearly vanish do this: look "
                               "for an adapted module or a dataset that leaves nothing to learn") from error
