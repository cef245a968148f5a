"""From files to a run: quantised base arrays, dataset arrays, and the manifest with calibrated exponents.

The manifest returned has no commitments and budgets yet; whoever commits adds them. Called when a run is planned.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from protocol.manifest import VERSION, WIDTHS, Lora, Optimizer, RunManifest
from protocol.relation.graph import IntArray
from prover.executor.calibrate import Calibration, calibrate
from prover.files.dataset import TokenisedDataset
from prover.files.groups import KEEP_BYTES
from prover.files.hf_model import HfModel
from prover.files.quantise import quantise_base
from prover.progress import Tell, silent

CALIBRATION_STEPS = 12


@dataclass(frozen=True)
class Prepared:
    """`base` by commitment name and tensor name, int64, a folder's made layer by layer when asked for; dataset arrays as committed."""

    manifest: RunManifest
    base: Mapping[str, Mapping[str, IntArray]]
    tokens: IntArray
    mask: IntArray
    calibration: Calibration


def prepare(
    model: HfModel, dataset: TokenisedDataset, *, name: str, lora: Lora, optimizer: Optimizer, batch_size: int,
    steps: int, window_steps: int, seed: int, publish_loss: bool, base_visibility: str, profile: str,
    gradient_accumulation: int = 1, weight_bits: int = WIDTHS["weight"], weight_scales: str = "tensor", headroom: int = 0,
    dataset_owner: str = "", calibration_steps: int = CALIBRATION_STEPS, keep: int = KEEP_BYTES, device: str = "cpu",
    tell: Tell = silent,
) -> Prepared:
    """Quantise, count loss tokens, calibrate on `device`. `headroom` is bits kept free in every calibrated exponent beyond the usual
    ones; `keep` bytes of the model's integers are held, the rest is read again. `tell` hears what is being done."""
    tell("quantising the base model")
    widths = WIDTHS | {"weight": weight_bits, "head": weight_bits}
    base, exponents = quantise_base(model, widths, weight_scales, keep)
    draft = RunManifest(
        version=VERSION, name=name, model=model.config, lora=lora, optimizer=optimizer, batch_size=batch_size,
        gradient_accumulation=gradient_accumulation, parts=1, rotation_windows=0, weight_scales=weight_scales,
        dataset_owner=dataset_owner,
        sequence_length=dataset.sequence_length, steps=steps, window_steps=window_steps, seed=seed,
        examples=len(dataset.tokens), loss_tokens=(1,) * steps, publish_loss=publish_loss,
        base_visibility=base_visibility, tokenizer_digest=dataset.tokenizer_digest, widths=widths, exponents=exponents,
        profile=profile, commitments={}, budgets={},
    )
    counts = tuple(int(dataset.mask[draft.batch(k)].sum()) for k in range(steps))
    draft = replace(draft, loss_tokens=counts)
    calibration = calibrate(draft, base, dataset.tokens, dataset.mask, calibration_steps, headroom, device, tell)
    return Prepared(replace(draft, exponents=calibration.exponents), base, dataset.tokens, dataset.mask, calibration)
