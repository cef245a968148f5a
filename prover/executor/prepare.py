"""From files to a run: quantised base arrays, dataset arrays, and the manifest with calibrated exponents.

The manifest returned has no commitments and budgets yet; whoever commits adds them. Called when a run is planned.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from protocol.manifest import VERSION, WIDTHS, Lora, Optimizer, RunManifest
from protocol.relation.graph import IntArray
from prover.executor.calibrate import Calibration, calibrate
from prover.files.dataset import TokenisedDataset
from prover.files.hf_model import HfModel
from prover.files.quantise import quantise_embedding, quantise_head, quantise_layer

CALIBRATION_STEPS = 12


@dataclass(frozen=True)
class Prepared:
    """`base` by commitment name and tensor name, int64; dataset arrays as committed."""

    manifest: RunManifest
    base: dict[str, dict[str, IntArray]]
    tokens: IntArray
    mask: IntArray
    calibration: Calibration


def load_base(model: HfModel, widths: Mapping[str, int]) -> tuple[dict[str, dict[str, IntArray]], dict[str, int]]:
    """Integer base weights by commitment, and their exponents by "commitment/tensor"."""
    groups = {f"base/{n}": quantise_layer(model.config, tensors, widths["weight"], widths["gamma"])
              for n, tensors in enumerate(model.layers())}
    groups["embedding"] = {"E": quantise_embedding(model.embedding(), widths["embedding"])}
    groups["head"] = {"W": quantise_head(model.head(), model.final_norm(), widths["head"])}
    base = {name: {k: x.values for k, x in group.items()} for name, group in groups.items()}
    return base, {f"{name}/{k}": x.exponent for name, group in groups.items() for k, x in group.items()}


def prepare(
    model: HfModel, dataset: TokenisedDataset, *, name: str, lora: Lora, optimizer: Optimizer, batch_size: int,
    steps: int, window_steps: int, seed: int, publish_loss: bool, base_visibility: str, profile: str,
    calibration_steps: int = CALIBRATION_STEPS,
) -> Prepared:
    """Quantise, count loss tokens, calibrate."""
    widths = dict(WIDTHS)
    base, exponents = load_base(model, widths)
    draft = RunManifest(
        version=VERSION, name=name, model=model.config, lora=lora, optimizer=optimizer, batch_size=batch_size,
        sequence_length=dataset.sequence_length, steps=steps, window_steps=window_steps, seed=seed,
        examples=len(dataset.tokens), loss_tokens=(1,) * steps, publish_loss=publish_loss,
        base_visibility=base_visibility, tokenizer_digest=dataset.tokenizer_digest, widths=widths, exponents=exponents,
        profile=profile, commitments={}, budgets={},
    )
    counts = tuple(int(dataset.mask[draft.batch(k)].sum()) for k in range(steps))
    draft = replace(draft, loss_tokens=counts)
    calibration = calibrate(draft, base, dataset.tokens, dataset.mask, calibration_steps)
    return Prepared(replace(draft, exponents=calibration.exponents), base, dataset.tokens, dataset.mask, calibration)
