"""Writes and reads PEFT adapter folders: adapter_config.json and adapter_model.safetensors (fp32).

The delivered adapter is the 16-bit compute copy of lora_A [r, d_in] and lora_B [d_out, r] with 14 fractional bits
(arithmetic.md 4): value = integer · 2^−14, exact in fp32, so file and proved integers determine each other. Writing is
deterministic: equal weights give equal bytes. Digests go over a canonical subset of the configuration, because PEFT's
own adapter_config.json changes between its versions. Called by `verilora adapter export` and `adapter check`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from protocol.model_config import PROJECTIONS

FRACTION_BITS = 14
COMPUTE_BITS = 16
CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
# (layer, module) → (lora_A [r, d_in], lora_B [d_out, r]), int64, value = integer · 2^−14
AdapterWeights = Mapping[tuple[int, str], tuple[np.ndarray, np.ndarray]]
# Options under which PEFT would compute something else from the same two matrices, with the value that it must have.
_PLAIN: dict[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "fan_in_fan_out": (False,),
    "use_dora": (False, None),
    "modules_to_save": (None, []),
    "layers_to_transform": (None, []),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
}


class AdapterFileError(Exception):
    """An adapter folder that cannot be written or read: file, tensor or key, remedy."""


@dataclass(frozen=True)
class AdapterConfig:
    """What defines the adapter's function besides its weights; the scaling is lora_alpha / r, or lora_alpha / √r."""

    r: int
    lora_alpha: int
    target_modules: tuple[str, ...]
    use_rslora: bool = False

    def __post_init__(self) -> None:
        if type(self.r) is not int or self.r < 1 or type(self.lora_alpha) is not int or self.lora_alpha < 1:
            raise ValueError("r and lora_alpha must be positive integers")
        if not self.target_modules or len(set(self.target_modules)) != len(self.target_modules):
            raise ValueError("target_modules must name at least one module, each once")
        if not set(self.target_modules) <= set(PROJECTIONS):
            raise ValueError(f"target_modules must be among {', '.join(PROJECTIONS)}")

    def canonical(self) -> dict[str, Any]:
        """The subset that digests cover: keys sorted, target_modules sorted, integers and strings only."""
        return {
            "bias": "none",
            "lora_alpha": self.lora_alpha,
            "peft_type": "LORA",
            "r": self.r,
            "target_modules": sorted(self.target_modules),
            "task_type": "CAUSAL_LM",
            "use_rslora": int(self.use_rslora),
        }


def tensor_name(layer: int, module: str, matrix: str) -> str:
    """PEFT's key of `matrix` ("lora_A" or "lora_B") of one projection."""
    block = "mlp" if module in ("gate_proj", "up_proj", "down_proj") else "self_attn"
    return f"base_model.model.model.layers.{layer}.{block}.{module}.{matrix}.weight"


def write_adapter(folder: Path, config: AdapterConfig, weights: AdapterWeights, base_model: str) -> tuple[Path, Path]:
    """Writes the two files into `folder` (made if absent); never replaces files. Returns their paths.

    `base_model` is the name or path that PEFT records as the model the adapter belongs to. Whoever gets the folder reads it.
    """
    tensors: dict[str, np.ndarray] = {}
    limit = 2 ** (COMPUTE_BITS - 1)
    for (layer, module), matrices in weights.items():
        for matrix, value in zip(("lora_A", "lora_B"), matrices, strict=True):
            name = tensor_name(layer, module, matrix)
            if module not in config.target_modules or value.ndim != 2 or value.shape[matrix == "lora_B"] != config.r:
                raise AdapterFileError(f"{name}: shape {value.shape} does not fit {config}")
            if value.dtype != np.int64 or not np.all((-limit <= value) & (value < limit)):
                raise AdapterFileError(f"{name}: values must be int64 of at most {COMPUTE_BITS} bits")
            tensors[name] = np.ldexp(value.astype(np.float32), -FRACTION_BITS)
    layers = {layer for layer, _ in weights}
    if len(weights) != len(layers) * len(config.target_modules) or not weights:
        raise AdapterFileError("every layer must have both matrices of every target module")
    folder = Path(folder)
    files = (folder / CONFIG_FILE, folder / WEIGHTS_FILE)
    for file in files:
        if file.exists():
            raise AdapterFileError(f"{file}: already exists. Choose another folder; nothing was written.")
    peft_config = config.canonical() | {
        "base_model_name_or_path": base_model,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "use_rslora": config.use_rslora,
    }
    folder.mkdir(parents=True, exist_ok=True)
    # The configuration goes last: a folder without it is visibly incomplete.
    files[1].write_bytes(save(tensors, metadata={"format": "pt"}))
    files[0].write_text(json.dumps(peft_config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return files


def read_adapter(folder: Path) -> tuple[AdapterConfig, dict[tuple[int, str], tuple[np.ndarray, np.ndarray]]]:
    """The configuration and the exact integers of an exported adapter.

    AdapterFileError for a value that is no multiple of 2^−14 within 16 bits, a missing or foreign tensor, or an
    option under which the adapter would be another function.
    """
    folder = Path(folder)
    config, raw = _read_config(folder / CONFIG_FILE), folder / WEIGHTS_FILE
    try:
        tensors = load(raw.read_bytes())
    except (OSError, SafetensorError) as error:
        raise AdapterFileError(f"{raw}: missing or damaged ({error}). Export the adapter again.") from error
    result: dict[tuple[int, str], tuple[np.ndarray, np.ndarray]] = {}
    for layer in range(len(tensors) // (2 * len(config.target_modules))):
        for module in config.target_modules:
            a, b = (_integers(raw, tensors, tensor_name(layer, module, matrix)) for matrix in ("lora_A", "lora_B"))
            if a.ndim != 2 or b.ndim != 2 or a.shape[0] != config.r or b.shape[1] != config.r:
                raise AdapterFileError(f"{raw}: layer {layer} {module}: shapes {a.shape}, {b.shape} for r {config.r}")
            result[layer, module] = (a, b)
    if len(result) * 2 != len(tensors) or not result:
        raise AdapterFileError(f"{raw}: holds tensors that are not lora_A or lora_B of {config.target_modules}")
    return config, result


def _integers(file: Path, tensors: dict[str, np.ndarray], name: str) -> np.ndarray:
    if name not in tensors:
        raise AdapterFileError(f"{file}: tensor {name} is missing. Export the adapter again.")
    scaled = np.ldexp(tensors[name].astype(np.float64), FRACTION_BITS)
    limit = 2 ** (COMPUTE_BITS - 1)
    in_range = np.all((-limit <= scaled) & (scaled < limit))  # false for NaN
    if tensors[name].dtype != np.float32 or not in_range or (np.rint(scaled) != scaled).any():
        raise AdapterFileError(
            f"{file}: tensor {name} is not fp32 with multiples of 2^-{FRACTION_BITS} from -2 up to 2; "
            "these are not the weights of an audited run."
        )
    return scaled.astype(np.int64)


def _read_config(file: Path) -> AdapterConfig:
    try:
        raw: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AdapterFileError(f"{file}: missing or damaged ({error}). Export the adapter again.") from error
    if not isinstance(raw, dict):
        raise AdapterFileError(f"{file}: not a JSON object")
    for key, allowed in _PLAIN.items():
        if raw.get(key, allowed[0]) not in allowed:
            raise AdapterFileError(f"{file}: {key} = {raw[key]!r} is not supported; it must be {allowed[0]!r}")
    r, lora_alpha, modules = raw.get("r"), raw.get("lora_alpha"), raw.get("target_modules")
    if type(r) is not int or type(lora_alpha) is not int:
        raise AdapterFileError(f"{file}: r and lora_alpha must be integers, found {r!r} and {lora_alpha!r}")
    if not isinstance(modules, list) or not all(isinstance(module, str) for module in modules):
        raise AdapterFileError(f"{file}: target_modules must be a list of module names, found {modules!r}")
    try:
        return AdapterConfig(r, lora_alpha, tuple(modules))
    except ValueError as error:
        raise AdapterFileError(f"{file}: {error}") from error
