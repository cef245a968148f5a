"""The delivered adapter: from the private store to a PEFT folder with its opening, and the customer's check of both.

    opening.json = {run, manifest, layers: [{layer, commitment, seed}]}

Whoever has the weights and a commitment's seed recomputes the commitment bit for bit: delivered/{l} commits to the 16-bit
compute copy of layer l's matrices with blinding and salts from the seed (protocol.md, sections 1, 2), and the file holds
exactly these integers. A seed belongs to one commitment, so handing it over tells nothing but the weights themselves. NumPy
reference code only: neither torch nor kernels are needed. Called by `verilora adapter export` and `verilora adapter check`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from protocol.errors import VerificationError
from protocol.field import GOLDILOCKS
from protocol.manifest import RunManifest
from protocol.relation.model import commitment_tensors
from protocol.statement import Name, commitment_layout, window_of
from prover.backend.reference import ReferenceBackend
from prover.commitment.commit import commit
from prover.files.adapter import AdapterConfig, AdapterFileError, AdapterWeights, read_adapter, write_adapter
from storage.models import RunRow
from verifier.receipt import receipt_about

OPENING_FILE = "opening.json"
Secret = tuple[bytes, Mapping[str, np.ndarray]]  # a commitment's seed, and its arrays by tensor name


@dataclass(frozen=True)
class LayerCheck:
    """One layer of an adapter folder against the run's ledger; `reason` is empty if it is the one that was proved."""

    layer: int
    commitment: str
    reason: str

    @property
    def accepted(self) -> bool:
        return not self.reason


def delivered_names(manifest: RunManifest) -> list[Name]:
    """The commitments that hold the delivered adapter, one for each layer."""
    last = len(manifest.windows())
    return [Name(f"delivered/{layer}", last) for layer in range(manifest.model.layers)]


def export_adapter(
    folder: Path, manifest: RunManifest, run_id: str, base_model: str, secrets: Mapping[int, Secret]
) -> list[Path]:
    """Write adapter_config.json, adapter_model.safetensors and opening.json into an empty or a new folder, all of which is going to be
    signed; returns their paths.

    `secrets` by layer, as tasks/deliver.py has them from the private store.
    """
    opening_path = Path(folder) / OPENING_FILE
    if Path(folder).exists() and not (Path(folder).is_dir() and not any(Path(folder).iterdir())):
        raise AdapterFileError(f"{folder}: already exists and is no empty folder. Choose another one; nothing was written.")
    weights: dict[tuple[int, str], tuple[np.ndarray, np.ndarray]] = {}
    layers: list[dict[str, Any]] = []
    r = manifest.lora.r
    for layer, name in enumerate(delivered_names(manifest)):
        seed, tensors = secrets[layer]
        for module in manifest.lora.target_modules:
            a, b = tensors[f"{module}.lora_A"], tensors[f"{module}.lora_B"]
            weights[layer, module] = (a.reshape(r, -1), b.reshape(-1, r))
        layers.append({"layer": layer, "commitment": _identity(manifest, name, tensors, seed), "seed": seed.hex()})
    config = _config(manifest)
    written = write_adapter(Path(folder), config, weights, base_model)
    opening = {"version": 1, "run": run_id, "manifest": manifest.digest(), "layers": layers}
    opening_path.write_text(json.dumps(opening, indent=2) + "\n", encoding="utf-8")
    return [*written, opening_path]


def check_adapter(folder: Path, manifest: RunManifest, roots: Mapping[str, bytes]) -> list[LayerCheck]:
    """Whether a folder's weights are the ones that the run's commitments delivered/{l} hold, layer by layer.

    `roots` by commitment name from the ledger. AdapterFileError for a folder that cannot be read as an exported adapter,
    VerificationError for one that is an adapter of another shape or run.
    """
    config, weights = read_adapter(Path(folder))
    wanted = _config(manifest)
    if config.canonical() != wanted.canonical():
        raise VerificationError("adapter-config", "adapter_config.json", str(wanted.canonical()), str(config.canonical()))
    names = delivered_names(manifest)
    if sorted({layer for layer, _ in weights}) != list(range(len(names))):
        raise VerificationError("adapter-layers", "adapter_model.safetensors", f"{len(names)} layers", str(len({n for n, _ in weights})))
    seeds = _read_seeds(Path(folder) / OPENING_FILE, len(names))
    return [_check_layer(manifest, layer, name, weights, seeds[layer], roots.get(str(name))) for layer, name in enumerate(names)]


def receipt_fault(envelope: bytes, run: RunRow, checks: Sequence[LayerCheck]) -> str:
    """Why an auditor's receipt does not say that this run was accepted and delivered what these layers open, "" if it does.

    An auditor may have been shown another ledger, so that `roots` above are not what was verified.
    """
    said = receipt_about(envelope, run.run_id, run.manifest.encode())
    names = delivered_names(RunManifest.from_json(run.manifest.encode()))
    opened = {str(names[check.layer]): check.commitment for check in checks}
    if not said["accepted"]:
        return f"receipt: its verdict is {said['state']}"
    return "" if said["delivered"] == opened else "receipt: the run that was verified delivered another adapter"


def _check_layer(
    manifest: RunManifest, layer: int, name: Name, weights: AdapterWeights, seed: bytes, root: bytes | None
) -> LayerCheck:
    if root is None:
        return LayerCheck(layer, "", f"missing-commitment: the ledger has no {name}; the run is not finished")
    recorded = commitment_layout(manifest, name).identity(root)
    tensors = {}
    for tensor, shape in commitment_tensors(manifest, name.base, window_of(manifest, name)):
        module, matrix = tensor.split(".")
        found = weights[layer, module][matrix == "lora_B"]
        if found.size != int(np.prod(shape)):
            return LayerCheck(layer, recorded, f"shape: {tensor} has {found.shape}, the run's has {shape}")
        tensors[tensor] = found.reshape(shape)
    if _identity(manifest, name, tensors, seed) != recorded:
        return LayerCheck(layer, recorded, f"commitment-id: weights and seed do not open {name}: other weights, or another seed")
    return LayerCheck(layer, recorded, "")


def _config(manifest: RunManifest) -> AdapterConfig:
    lora = manifest.lora
    return AdapterConfig(lora.r, lora.lora_alpha, lora.target_modules, lora.use_rslora)


def _identity(manifest: RunManifest, name: Name, tensors: Mapping[str, np.ndarray], seed: bytes) -> str:
    layout = commitment_layout(manifest, name)
    return commit(ReferenceBackend(GOLDILOCKS), layout, {slot.name: tensors[slot.name] for slot in layout.slots}, seed).id


def _read_seeds(path: Path, layers: int) -> list[bytes]:
    remedy = "It belongs to the adapter: ask for the folder that `verilora adapter export` wrote."
    try:
        opening = json.loads(path.read_text(encoding="utf-8"))
        seeds = {int(item["layer"]): bytes.fromhex(item["seed"]) for item in opening["layers"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AdapterFileError(f"{path}: missing or damaged ({type(error).__name__}: {error}). {remedy}") from error
    if sorted(seeds) != list(range(layers)) or any(len(seed) != 32 for seed in seeds.values()):
        raise AdapterFileError(f"{path}: holds no seed of 32 bytes for each of {layers} layers. {remedy}")
    return [seeds[layer] for layer in range(layers)]
