"""Reads a Hugging Face model folder: config.json (hf_config.py) and safetensors (one file, or shards with an index).

Weights are stored as bf16, fp16 or fp32 and returned as float32, which holds each of the three exactly. Shapes are
Hugging Face's [d_out, d_in]. Names, dtypes and shapes of all tensors are checked when the folder is opened; values
(NaN, infinity) when a tensor is read. Layers are read one at a time, so memory stays at one layer. Called by the run's
planning, by prover/files/quantise.py and by the calibration.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from protocol.model_config import PROJECTIONS, ModelConfig
from prover.files.hf_config import ModelFileError, read_config, read_json

__all__ = ["HfModel", "LayerTensors", "ModelFileError", "open_model", "read_config", "read_json"]

LayerTensors = dict[str, np.ndarray]
NORMS = ("input_layernorm", "post_attention_layernorm")
_EMBEDDING, _FINAL_NORM, _HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
_DTYPES = {"BF16", "F16", "F32"}
_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
@dataclass(frozen=True)
class HfModel:
    """An opened folder: its configuration and which file holds which tensor."""

    folder: Path
    config: ModelConfig
    files: dict[str, Path]

    def layer(self, index: int) -> LayerTensors:
        """Tensors of one layer by short name, float32: the seven PROJECTIONS [d_out, d_in], "q_proj.bias" … [d_out] where there
        are biases, the two NORMS [d], and q_norm, k_norm [head_dim] with q/k norm."""
        if not 0 <= index < self.config.layers:
            raise IndexError(f"layer {index} of {self.config.layers}")
        return {name: self._read(_layer_tensor(index, name)) for name in _layer_shapes(self.config)}

    def embedding(self) -> np.ndarray:
        """[vocab, hidden] float32."""
        return self._read(_EMBEDDING)

    def final_norm(self) -> np.ndarray:
        """[hidden] float32."""
        return self._read(_FINAL_NORM)

    def head(self) -> np.ndarray:
        """[vocab, hidden] float32; the embedding table when the head is tied."""
        if not self.config.tied:
            return self._read(_HEAD)
        table = self.embedding()
        if _HEAD in self.files and not np.array_equal(self._read(_HEAD), table):
            raise ModelFileError(
                self.files[_HEAD], "differs from the embedding although config.json ties the two",
                "Set tie_word_embeddings to false, or remove the tensor.", _HEAD,
            )
        return table

    def digest(self) -> str:
        """SHA-256 over name, shape and float32 values of every tensor in name order; sharding does not matter."""
        digest = hashlib.sha256()
        for name in sorted(_expected_shapes(self.config)):
            value = self._read(name)
            digest.update(json.dumps([name, list(value.shape)], separators=(",", ":")).encode() + b"\n")
            digest.update(np.ascontiguousarray(value, dtype="<f4").tobytes())
        return digest.hexdigest()

    def _read(self, name: str) -> np.ndarray:
        file = self.files[name]
        with _open(file) as tensors:
            value: np.ndarray = tensors.get_tensor(name).to(torch.float32).numpy()
        if not np.isfinite(value).all():
            cell = tuple(int(i) for i in np.argwhere(~np.isfinite(value))[0])
            raise ModelFileError(file, f"NaN or infinite value at {cell}", "Use an intact copy of the weights.", name)
        return value


def open_model(folder: Path) -> HfModel:
    """Opens and checks a folder; ModelFileError names the file, the tensor or key, and the remedy."""
    folder = Path(folder)
    config = read_config(folder / "config.json")
    files = _locate(folder)
    expected = _expected_shapes(config)
    for name in sorted(expected.keys() - files.keys()):
        raise ModelFileError(
            folder / (_INDEX if (folder / _INDEX).exists() else _SINGLE), "the tensor is missing",
            "Download the complete model, or correct the sizes in config.json.", name,
        )
    for name in sorted(files.keys() - expected.keys()):
        # Old conversions store the RoPE frequencies, which follow from rope_theta; a tied head may be stored twice.
        if not (name.endswith("rotary_emb.inv_freq") or (config.tied and name == _HEAD)):
            raise ModelFileError(
                files[name], "this tensor is not part of the model that config.json describes",
                "Correct config.json or use the weights that belong to it.", name,
            )
    by_file: dict[Path, list[str]] = {}
    for name, file in files.items():
        by_file.setdefault(file, []).append(name)
    for file, names in sorted(by_file.items()):
        _check_headers(file, names, expected)
    return HfModel(folder, config, files)


def _layer_tensor(index: int, name: str) -> str:
    block = "" if name in NORMS else "mlp." if name.split("_")[0] in ("gate", "up", "down") else "self_attn."
    return f"model.layers.{index}.{block}{name}{'' if name.endswith('.bias') else '.weight'}"


def _layer_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {name: config.projection_shape(name) for name in PROJECTIONS}
    shapes |= {f"{name}.bias": config.projection_shape(name)[:1] for name in config.biased}
    shapes |= dict.fromkeys(NORMS, (config.hidden,))
    return shapes | (dict.fromkeys(("q_norm", "k_norm"), (config.head_dim,)) if config.qk_norm else {})


def _expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {_EMBEDDING: (config.vocab, config.hidden), _FINAL_NORM: (config.hidden,)}
    if not config.tied:
        shapes[_HEAD] = (config.vocab, config.hidden)
    for index in range(config.layers):
        shapes |= {_layer_tensor(index, name): shape for name, shape in _layer_shapes(config).items()}
    return shapes


def _locate(folder: Path) -> dict[str, Path]:
    """Tensor name → file, from the index of shards or from the single file."""
    index = folder / _INDEX
    if not index.exists():
        with _open(folder / _SINGLE) as tensors:
            return dict.fromkeys(tensors.keys(), folder / _SINGLE)
    entries = read_json(index).get("weight_map")
    if not isinstance(entries, dict) or not all(isinstance(shard, str) for shard in entries.values()):
        raise ModelFileError(index, "weight_map is not an object of file names", "Use an intact copy of the index.")
    for shard in entries.values():
        if Path(shard).name != shard:
            raise ModelFileError(index, f"{shard!r} is not a plain file name", "Shards lie beside the index.")
    return {name: folder / shard for name, shard in entries.items()}


def _check_headers(file: Path, names: list[str], expected: dict[str, tuple[int, ...]]) -> None:
    with _open(file) as tensors:
        present = set(tensors.keys())
        for name in sorted(names):
            if name not in present:
                raise ModelFileError(file, "the tensor is missing although the index lists it here",
                                     "Download the shard again.", name)
            if name not in expected:
                continue
            part = tensors.get_slice(name)
            if tuple(part.get_shape()) != expected[name]:
                raise ModelFileError(file, f"shape {list(part.get_shape())}, config.json says {list(expected[name])}",
                                     "Correct config.json or use the weights that belong to it.", name)
            if part.get_dtype() not in _DTYPES:
                raise ModelFileError(file, f"dtype {part.get_dtype()} is not supported",
                                     "Convert the weights to BF16, F16 or F32.", name)


def _open(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except FileNotFoundError:
        raise ModelFileError(file, "the file is missing",
                             "Give a folder with model.safetensors, or with the index and all its shards.") from None
    except (SafetensorError, OSError) as error:
        raise ModelFileError(file, f"truncated or damaged safetensors file ({error})",
                             "Download the file again.") from error
