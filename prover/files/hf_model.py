"""Reads a Hugging Face LLaMA folder: config.json and safetensors (one file, or shards with an index).

Weights are stored as bf16, fp16 or fp32 and returned as float32, which holds each of the three exactly. Shapes are
Hugging Face's [d_out, d_in]. Names, dtypes and shapes of all tensors are checked when the folder is opened; values
(NaN, infinity) when a tensor is read. Layers are read one at a time, so memory stays at one layer. Whatever would
change the function that LlamaForCausalLM computes and is not supported is refused by its name. Called by the run's
planning, by prover/files/quantise.py's callers and by the calibration.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from protocol.errors import VerificationError
from protocol.model_config import PROJECTIONS, ModelConfig

LayerTensors = dict[str, np.ndarray]
NORMS = ("input_layernorm", "post_attention_layernorm")
_EMBEDDING, _FINAL_NORM, _HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
_DTYPES = {"BF16", "F16", "F32"}
_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
# config.json keys that change what LlamaForCausalLM computes, with the values that leave it as it is proved.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "rope_scaling": (None,),
    "attention_bias": (None, False),
    "mlp_bias": (None, False),
    "hidden_act": ("silu",),
    "sliding_window": (None,),
    "use_sliding_window": (None, False),
    "quantization_config": (None,),
    "partial_rotary_factor": (None, 1),
    "attention_dropout": (None, 0),
    "qk_layernorm": (None, False),
    "is_encoder_decoder": (None, False),
    "add_cross_attention": (None, False),
}


class ModelFileError(Exception):
    """A model folder that cannot be used: which file, which tensor or key, what is wrong, what to do."""

    def __init__(self, file: Path, problem: str, remedy: str, tensor: str = "") -> None:
        self.file, self.problem, self.remedy, self.tensor = file, problem, remedy, tensor
        where = f"{file}, tensor {tensor}" if tensor else f"{file}"
        super().__init__(f"{where}: {problem}. {remedy}")


@dataclass(frozen=True)
class HfModel:
    """An opened folder: its configuration and which file holds which tensor."""

    folder: Path
    config: ModelConfig
    files: dict[str, Path]

    def layer(self, index: int) -> LayerTensors:
        """Tensors of one layer by short name: the seven PROJECTIONS [d_out, d_in] and the two NORMS [d], float32."""
        if not 0 <= index < self.config.layers:
            raise IndexError(f"layer {index} of {self.config.layers}")
        return {name: self._read(_layer_tensor(index, name)) for name in (*PROJECTIONS, *NORMS)}

    def layers(self) -> Iterator[LayerTensors]:
        return (self.layer(index) for index in range(self.config.layers))

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
                files[name], "this tensor is not part of a plain LLaMA decoder",
                "Only LlamaForCausalLM without biases or additional norms is supported.", name,
            )
    by_file: dict[Path, list[str]] = {}
    for name, file in files.items():
        by_file.setdefault(file, []).append(name)
    for file, names in sorted(by_file.items()):
        _check_headers(file, names, expected)
    return HfModel(folder, config, files)


def read_config(file: Path) -> ModelConfig:
    """config.json → ModelConfig; unsupported features are refused by name."""
    raw: Any = read_json(file)
    _refuse_unsupported(file, raw)
    rope = raw.get("rope_parameters") or {}
    heads = raw.get("num_attention_heads")
    head_dim = raw.get("head_dim")
    if head_dim is None and type(heads) is int and heads > 0 and type(raw.get("hidden_size")) is int:
        head_dim = raw["hidden_size"] // heads
    kv_heads = raw.get("num_key_value_heads")
    try:
        return ModelConfig(
            vocab=raw.get("vocab_size"), hidden=raw.get("hidden_size"), layers=raw.get("num_hidden_layers"),
            heads=heads, kv_heads=heads if kv_heads is None else kv_heads, head_dim=head_dim,
            ffn=raw.get("intermediate_size"), rms_eps=_decimal(raw.get("rms_norm_eps")),
            rope_theta=_decimal(raw.get("rope_theta", rope.get("rope_theta"))),
            tied=int(raw.get("tie_word_embeddings") is True),
        )
    except VerificationError as error:
        raise ModelFileError(file, f"{error.where} must be {error.expected}, found {error.actual}",
                             "Correct config.json; its values must describe the weights.") from error


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object with non-integers as exact Decimals; ModelFileError when absent or malformed."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"), parse_float=Decimal)
    except FileNotFoundError:
        raise ModelFileError(file, "the file is missing", "Give a Hugging Face model folder with this file.") from None
    except (OSError, ValueError) as error:
        raise ModelFileError(file, f"not readable as JSON: {error}", "Use an intact copy of the file.") from error
    if not isinstance(value, dict):
        raise ModelFileError(file, "not a JSON object", "Use an intact copy of the file.")
    return value


def _refuse_unsupported(file: Path, raw: dict[str, Any]) -> None:
    architectures = raw.get("architectures", ["LlamaForCausalLM"])
    if architectures != ["LlamaForCausalLM"] or raw.get("model_type") != "llama":
        raise ModelFileError(
            file, f"unknown architecture {architectures} (model_type {raw.get('model_type')!r})",
            "Supported: LlamaForCausalLM with model_type llama.",
        )
    for key, allowed in _NEUTRAL.items():
        if raw.get(key, allowed[0]) not in allowed:
            raise ModelFileError(file, f"{key} = {raw[key]!r} is not supported",
                                 f"Supported: {' or '.join(json.dumps(value) for value in allowed)}.")
    rope = raw.get("rope_parameters") or {}
    if not isinstance(rope, dict) or rope.get("rope_type", "default") != "default":
        raise ModelFileError(file, f"rope_parameters = {rope!r} is not supported", 'Supported: rope_type "default".')
    partial = rope.get("partial_rotary_factor", 1)
    if partial != 1:
        raise ModelFileError(file, f"rope_parameters.partial_rotary_factor = {partial} is not supported",
                             "Supported: 1.")


def _decimal(value: object) -> str:
    """The literal of config.json in canonical decimal form: 1e-05 → "0.00001", 10000.0 → "10000"."""
    if type(value) is int:
        value = Decimal(value)
    if not isinstance(value, Decimal) or not value.is_finite() or not -30 < value.adjusted() < 30:
        return repr(value)  # not canonical: ModelConfig refuses it by name
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _layer_tensor(index: int, name: str) -> str:
    block = {"gate_proj": "mlp.", "up_proj": "mlp.", "down_proj": "mlp."}.get(name, "self_attn.")
    return f"model.layers.{index}.{'' if name in NORMS else block}{name}.weight"


def _expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {_EMBEDDING: (config.vocab, config.hidden), _FINAL_NORM: (config.hidden,)}
    if not config.tied:
        shapes[_HEAD] = (config.vocab, config.hidden)
    for index in range(config.layers):
        shapes |= {_layer_tensor(index, name): config.projection_shape(name) for name in PROJECTIONS}
        shapes |= {_layer_tensor(index, name): (config.hidden,) for name in NORMS}
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
