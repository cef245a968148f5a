"""Whether the public base model of a run is the one in a folder: its commitments, made again from the files.

    id = SHA-256(root of the quantised tensors under the public salts, geometry)      (docs/protocol.md 2, 3)

Quantisation is deterministic (prover/files/quantise.py) and the salts of a public base come from a public seed, so whoever has
the model computes the ids that the manifest must name. Exponents are compared too: the same integers under another exponent are
other weights. Called by `verilora base check`.
"""

from dataclasses import dataclass
from pathlib import Path

from protocol.manifest import RunManifest
from protocol.statement import Name, commitment_layout
from prover.backend import select
from prover.commitment.commit import commit
from prover.files.hf_model import open_model
from prover.files.quantise import quantise_base
from tasks.context import RunError
from tasks.plan import PUBLIC_SEED


@dataclass(frozen=True)
class BaseCheck:
    """One commitment of the base model; `reason` is empty if it is the folder's."""

    name: str
    recorded: str
    reason: str

    @property
    def accepted(self) -> bool:
        return not self.reason


def check_base(folder: Path, manifest: RunManifest) -> list[BaseCheck]:
    """Every commitment of the base model against a folder; RunError if the run's base is private, ModelFileError for a folder
    that cannot be read."""
    if manifest.base_visibility != "public":
        raise RunError(
            "this run's base model is private: its commitments are salted with secrets, so nobody can recompute them. A run with "
            "audit.base_model: public can be checked"
        )
    model = open_model(folder)
    if model.config != manifest.model:
        return [BaseCheck("configuration", "", _difference(manifest, model.config.to_manifest()))]
    base, exponents = quantise_base(model, manifest.widths, manifest.weight_scales)
    backend, out = select(), []
    for name, tensors in sorted(base.items()):
        layout = commitment_layout(manifest, Name(name))
        found = layout.identity(commit(backend, layout, tensors, PUBLIC_SEED).root)
        recorded, reason = manifest.commitments[name], ""
        if found != recorded:
            reason = f"commitment-id: the folder's is {found}"
        for tensor in tensors:
            key = f"{name}/{tensor}"
            if manifest.exponents.get(key) != exponents[key]:
                stated = manifest.exponents.get(key)
                reason = reason or f"exponent: {key} is {stated} in the manifest, the folder's weights have {exponents[key]}"
        out.append(BaseCheck(name, recorded, reason))
    return out


def _difference(manifest: RunManifest, found: dict[str, int | str]) -> str:
    for key, value in manifest.model.to_manifest().items():
        if found[key] != value:
            return f"model.{key}: {value} in the manifest, {found[key]} in the folder"
    return ""
