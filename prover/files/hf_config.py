"""Reads config.json of a Hugging Face folder: which decoder it describes, as protocol.model_config.ModelConfig.

    LlamaForCausalLM (attention_bias, mlp_bias; RoPE default or llama3), MistralForCausalLM without sliding window,
    Qwen2ForCausalLM (bias on q, k, v) and Qwen3ForCausalLM (q/k norm), with full attention

RoPE is described by `rope_theta` and `rope_scaling`, or in newer files by `rope_parameters` alone. Keys that are absent have
the defaults of transformers' configuration classes, where those are safe. Whatever would change the function that the model
computes and is not supported is refused by its name. Called by prover/files/hf_model.py and dataset.py.
"""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

from protocol.errors import VerificationError
from protocol.model_config import ModelConfig

ARCHITECTURES = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
# Keys that change what the model computes, with the values that leave it as it is proved.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "num_local_experts": (None,),
    "num_experts": (None,),
    "quantization_config": (None,),
    "hidden_act": ("silu",),
    "use_sliding_window": (None, False),
    "partial_rotary_factor": (None, 1),
    "attention_dropout": (None, 0),
    "qk_layernorm": (None, False),
    "is_encoder_decoder": (None, False),
    "add_cross_attention": (None, False),
}
_LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
_ATTENTION, _MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
DEFAULT_THETA = 10000


class ModelFileError(Exception):
    """A model folder that cannot be used: which file, which tensor or key, what is wrong, what to do."""

    def __init__(self, file: Path, problem: str, remedy: str, tensor: str = "") -> None:
        self.file, self.problem, self.remedy, self.tensor = file, problem, remedy, tensor
        where = f"{file}, tensor {tensor}" if tensor else f"{file}"
        super().__init__(f"{where}: {problem}. {remedy}")


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


def read_config(file: Path) -> ModelConfig:
    """config.json → ModelConfig; unsupported features are refused by name."""
    raw: Any = read_json(file)
    kind = _refuse_unsupported(file, raw)
    theta, scaling = _rope(file, raw)
    heads, head_dim, kv_heads = raw.get("num_attention_heads"), raw.get("head_dim"), raw.get("num_key_value_heads")
    if head_dim is None and kind == "qwen3":
        head_dim = 128
    elif head_dim is None and type(heads) is int and heads > 0 and type(raw.get("hidden_size")) is int:
        head_dim = raw["hidden_size"] // heads
    if kv_heads is None and (kind == "llama" or "num_key_value_heads" in raw):
        kv_heads = heads
    try:
        return ModelConfig(
            vocab=raw.get("vocab_size"), hidden=raw.get("hidden_size"), layers=raw.get("num_hidden_layers"),
            heads=heads, kv_heads=kv_heads, head_dim=head_dim, ffn=raw.get("intermediate_size"),
            rms_eps=_decimal(raw.get("rms_norm_eps")), rope_theta=theta, rope_scaling=scaling,
            tied=int(raw.get("tie_word_embeddings") is True), bias=_bias(file, raw, kind), qk_norm=int(kind == "qwen3"),
        )
    except VerificationError as error:
        raise ModelFileError(file, f"{error.where} must be {error.expected}, found {error.actual}",
                             "Correct config.json; its values must describe the weights.") from error


def _refuse_unsupported(file: Path, raw: dict[str, Any]) -> str:
    """The model_type, after the checks that do not depend on RoPE."""
    for key, allowed in _NEUTRAL.items():
        if raw.get(key, allowed[0]) not in allowed:
            raise _unsupported(file, key, raw[key], " or ".join(json.dumps(value) for value in allowed))
    kind = raw.get("model_type")
    expected = ARCHITECTURES.get(kind) if isinstance(kind, str) else None
    architectures = raw.get("architectures") or [expected]
    if expected is None or architectures != [expected]:
        raise ModelFileError(
            file, f"unknown architecture {architectures} (model_type {kind!r})",
            f"Supported: {', '.join(f'{a} ({k})' for k, a in ARCHITECTURES.items())}.",
        )
    # Mistral's default is a window; the Qwen classes read the size only with use_sliding_window, refused above.
    if kind in ("llama", "mistral") and raw.get("sliding_window", 4096 if kind == "mistral" else None) is not None:
        raise _unsupported(file, "sliding_window", raw.get("sliding_window", "absent, which means 4096"), "null")
    layers = raw.get("layer_types")
    if layers is not None and (not isinstance(layers, list) or set(layers) != {"full_attention"}):
        raise _unsupported(file, "layer_types", layers, 'only "full_attention"')
    return str(kind)


def _bias(file: Path, raw: dict[str, Any], kind: str) -> str:
    """The projections with a bias: a key in Llama and Qwen3, always q, k, v in Qwen2."""
    found: tuple[str, ...] = ("q_proj", "k_proj", "v_proj") if kind == "qwen2" else ()
    for key, modules, kinds in (("attention_bias", _ATTENTION, ("llama", "qwen3")), ("mlp_bias", _MLP, ("llama",))):
        value = raw.get(key) or False
        if value is not False and (value is not True or kind not in kinds):
            raise _unsupported(file, key, value, "false" if kind not in kinds else "true or false")
        found += modules if value else ()
    return ",".join(found)


def _rope(file: Path, raw: dict[str, Any]) -> tuple[str, str]:
    """(rope_theta, rope_scaling) in the forms of ModelConfig."""
    scaling, parameters = (raw.get(key) or {} for key in ("rope_scaling", "rope_parameters"))
    key = "rope_scaling" if scaling else "rope_parameters"
    rope = scaling or parameters
    if not isinstance(rope, dict) or (scaling and parameters and scaling != parameters):
        raise _unsupported(file, key, rope, "one object, in rope_scaling or in rope_parameters")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "llama3"):
        raise _unsupported(file, f"{key}.rope_type", kind, '"default" or "llama3"')
    for name in sorted(set(rope) - {"rope_type", "type", "rope_theta", "partial_rotary_factor", *_LLAMA3}):
        raise _unsupported(file, f"{key}.{name}", rope[name], f"rope_type, rope_theta, {', '.join(_LLAMA3)}")
    if rope.get("partial_rotary_factor", 1) != 1:
        raise _unsupported(file, f"{key}.partial_rotary_factor", rope["partial_rotary_factor"], "1")
    theta = _decimal(raw.get("rope_theta", rope.get("rope_theta", DEFAULT_THETA)))
    if "rope_theta" in raw and "rope_theta" in rope and _decimal(rope["rope_theta"]) != theta:
        raise _unsupported(file, f"{key}.rope_theta", rope["rope_theta"], f"the same as rope_theta = {theta}")
    if kind == "default":
        return theta, ""
    for name in _LLAMA3:
        if name not in rope:
            raise ModelFileError(file, f"{key}.{name} is missing", 'rope_type "llama3" needs it.')
    return theta, ":".join(["llama3", *(_decimal(rope[name]) for name in _LLAMA3)])


def _unsupported(file: Path, key: str, value: object, supported: str) -> ModelFileError:
    text = str(value) if isinstance(value, Decimal) else repr(value)
    return ModelFileError(file, f"{key} = {text} is not supported", f"Supported: {supported}.")


def _decimal(value: object) -> str:
    """The literal of config.json in canonical decimal form: 1e-05 → "0.00001", 10000.0 → "10000"."""
    if type(value) is int:
        value = Decimal(value)
    if not isinstance(value, Decimal) or not value.is_finite() or not -30 < value.adjusted() < 30:
        return repr(value)  # not canonical: ModelConfig refuses it by name
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
