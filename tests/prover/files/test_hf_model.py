"""Reading Hugging Face folders: right values from every storage form, and a clear error for every defect."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from prover.files.hf_model import ModelFileError, open_model, read_config

MISTRAL: dict[str, object] = {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
QWEN2: dict[str, object] = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
QWEN3: dict[str, object] = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}
LLAMA3: dict[str, object] = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                             "original_max_position_embeddings": 8192}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("shards", [1, 3])
def test_values_shapes_and_names(small: Any, dtype: torch.dtype, shards: int) -> None:
    small.tensors = {name: value.to(dtype) for name, value in small.tensors.items()}
    model = open_model(small.write(shards))
    layer = model.layer(1)
    assert layer["q_proj"].shape == (24, 12) and layer["k_proj"].shape == (12, 12) and layer["down_proj"].shape == (12, 20)
    for name, value in layer.items():
        block = "" if "norm" in name else "mlp." if name in ("gate_proj", "up_proj", "down_proj") else "self_attn."
        stored = small.tensors[f"model.layers.1.{block}{name}.weight"]
        assert value.dtype == np.float32 and np.array_equal(value, stored.float().numpy())
    assert np.array_equal(model.head(), small.tensors["lm_head.weight"].float().numpy())
    assert model.layer(1).keys() == model.layer(0).keys()


def test_digest_ignores_sharding_and_sees_one_value(small: Any, tmp_path: Any) -> None:
    one = open_model(small.write()).digest()
    (tmp_path / "model.safetensors").unlink()
    assert open_model(small.write(3)).digest() == one
    small.tensors["model.norm.weight"][3] += 1
    assert open_model(small.write(3)).digest() != one


def test_tied_head(small: Any) -> None:
    small.config["tie_word_embeddings"] = True
    head = small.tensors.pop("lm_head.weight")
    model = open_model(small.write())
    assert model.config.tied == 1 and np.array_equal(model.head(), model.embedding())
    small.tensors["lm_head.weight"] = head
    with pytest.raises(ModelFileError, match="lm_head.weight.*ties"):
        open_model(small.write()).head()


def test_config_values(small: Any) -> None:
    small.config |= {"rope_theta": 500000, "rms_norm_eps": 9.999999747378752e-06}
    del small.config["num_key_value_heads"]
    config = read_config(small.write() / "config.json")
    assert (config.rope_theta, config.rms_eps) == ("500000", "0.000009999999747378752")
    assert config.kv_heads == 6 and config.queries_per_group == 1


def test_newer_rope_parameters(small: Any) -> None:
    del small.config["rope_theta"]
    small.config["rope_parameters"] = {"rope_type": "default", "rope_theta": 10000.0}
    assert read_config(small.write() / "config.json").rope_theta == "10000"


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_llama3_rope_in_both_spellings(small: Any, key: str) -> None:
    del small.config["rope_theta"]
    small.config[key] = LLAMA3 | {"rope_theta": 500000.0}
    config = read_config(small.write() / "config.json")
    assert (config.rope_theta, config.rope_scaling) == ("500000", "llama3:8:1:4:8192")


def test_features_of_the_other_families(small: Any) -> None:
    """Keys as in the published config.json of Mistral-7B-v0.3, Qwen2.5 and Qwen3."""
    del small.config["head_dim"]
    small.config |= MISTRAL | {"sliding_window": None}
    file = small.write() / "config.json"
    assert read_config(file).head_dim == 2 and read_config(file).bias == ""
    small.config |= QWEN2 | {"sliding_window": 131072, "use_sliding_window": False, "max_window_layers": 28}
    qwen2 = read_config(small.write() / "config.json")
    assert (qwen2.bias, qwen2.qk_norm) == ("q_proj,k_proj,v_proj", 0)
    small.config |= QWEN3 | {"attention_bias": False, "sliding_window": None}
    qwen3 = read_config(small.write() / "config.json")
    assert (qwen3.bias, qwen3.qk_norm, qwen3.head_dim) == ("", 1, 128)
    small.config |= {"attention_bias": True, "head_dim": 4}
    assert read_config(small.write() / "config.json").bias == "q_proj,k_proj,v_proj,o_proj"


def test_absent_keys_have_the_defaults_of_transformers(small: Any) -> None:
    for key in ("rope_theta", "num_key_value_heads", "head_dim", "tie_word_embeddings"):
        del small.config[key]
    config = read_config(small.write() / "config.json")
    assert (config.rope_theta, config.kv_heads, config.head_dim, config.tied) == ("10000", 6, 2, 0)
    small.config |= QWEN2
    with pytest.raises(ModelFileError, match="model.kv_heads"):  # another default in each family: it has to be said
        read_config(small.write() / "config.json")


def test_bias_and_head_norm_tensors(small: Any) -> None:
    small.config |= QWEN3 | {"attention_bias": True}
    for n in range(2):
        p = f"model.layers.{n}.self_attn."
        small.tensors |= {f"{p}{x}_proj.bias": torch.full((s,), 0.5) for x, s in (("q", 24), ("k", 12), ("v", 12), ("o", 12))}
        small.tensors |= {f"{p}{x}_norm.weight": torch.full((4,), 1.5) for x in "qk"}
    layer = open_model(small.write()).layer(1)
    assert layer["q_proj.bias"].shape == (24,) and layer["o_proj.bias"][3] == 0.5 and layer["k_norm"].tolist() == [1.5] * 4
    before = open_model(small.path).digest()
    small.tensors["model.layers.1.self_attn.k_proj.bias"] += 1
    assert open_model(small.write()).digest() != before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["MistralForCausalLM"]}, "unknown architecture.*Mistral"),
        ({"model_type": "qwen2"}, "unknown architecture.*qwen2"),
        ({"model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"]}, "unknown architecture.*Gemma3.*Supported: Llama"),
        ({"model_type": None}, "unknown architecture"),
        ({"model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "num_local_experts": 8}, "num_local_experts = 8"),
        ({"model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "num_experts": 128}, "num_experts = 128"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling.rope_type = 'linear'"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rope_scaling.rope_type = 'dynamic'"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rope_parameters.rope_type = 'yarn'"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "rope_parameters.rope_type = 'longrope'"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "rope_parameters.factor is missing"),
        ({"rope_parameters": LLAMA3 | {"factor": 0.5}}, "model.rope_scaling"),
        ({"rope_parameters": LLAMA3, "rope_scaling": {"rope_type": "yarn"}}, "one object"),
        ({"rope_parameters": {"rope_theta": 5e5}}, "rope_parameters.rope_theta = 500000"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "rope_parameters.partial_rotary_factor = 0.5"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e6}}}, "rope_parameters.full_attention"),
        ({"rope_parameters": LLAMA3 | {"attention_factor": 2}}, "rope_parameters.attention_factor = 2"),
        ({"rope_scaling": "llama3"}, "rope_scaling = 'llama3'"),
        ({"attention_bias": True}, "k_proj.bias.*missing"),
        ({"mlp_bias": True}, "_proj.bias.*missing"),
        ({"mlp_bias": "yes"}, "mlp_bias = 'yes'"),
        (MISTRAL | {"attention_bias": True, "sliding_window": None}, "attention_bias = True"),
        (MISTRAL | {"sliding_window": 4096}, "sliding_window = 4096"),
        (MISTRAL, "sliding_window = 'absent, which means 4096'"),
        (QWEN2 | {"use_sliding_window": True}, "use_sliding_window"),
        (QWEN2 | {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types.*sliding_attention"),
        (QWEN2, "k_proj.bias.*missing"),
        (QWEN3, "_norm.weight.*missing"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"sliding_window": 4096}, "sliding_window"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"attention_dropout": 0.1}, "attention_dropout"),
        ({"qk_layernorm": True}, "qk_layernorm"),
        ({"vocab_size": None}, "model.vocab"),
        ({"vocab_size": 287}, r"tensor (lm_head|model.embed_tokens).weight: shape \[288, 12\].*\[287, 12\]"),
        ({"num_key_value_heads": 4}, "model.kv_heads"),
        ({"head_dim": 3}, "model.head_dim"),
        ({"rms_norm_eps": 0.0}, "model.rms_eps"),
        ({"rope_theta": "10000"}, "model.rope_theta"),
        ({"num_hidden_layers": 3}, "model.layers.2.*missing"),
        ({"num_hidden_layers": 1}, "model.layers.1.*not part"),
    ],
)
def test_unsupported_configuration_is_named(small: Any, change: dict[str, object], message: str) -> None:
    small.config |= change
    with pytest.raises(ModelFileError, match=message):
        open_model(small.write())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite(small: Any, value: float) -> None:
    small.tensors["model.layers.1.mlp.up_proj.weight"][7, 5] = value
    model = open_model(small.write())
    model.layer(0)
    with pytest.raises(ModelFileError, match=r"layers.1.mlp.up_proj.weight.*\(7, 5\)"):
        model.layer(1)


def test_missing_tensor_shape_dtype_and_bias(small: Any) -> None:
    name = "model.layers.0.self_attn.q_proj.weight"
    value = small.tensors.pop(name)
    with pytest.raises(ModelFileError, match=f"{name}.*missing"):
        open_model(small.write())
    for wrong, message in ((value[:-1], "shape"), (value.double(), "F64"), (value.to(torch.int8), "I8")):
        small.tensors[name] = wrong.contiguous()
        with pytest.raises(ModelFileError, match=f"{name}.*{message}"):
            open_model(small.write())
    small.tensors |= {name: value, "model.layers.0.self_attn.q_proj.bias": torch.zeros(24)}
    with pytest.raises(ModelFileError, match="q_proj.bias.*not part"):
        open_model(small.write())


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_truncated_file(small: Any, keep: int) -> None:
    file = small.write() / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ModelFileError, match="model.safetensors.*truncated"):
        open_model(file.parent)


def test_absent_files_and_bad_json(small: Any) -> None:
    folder = small.write(2)
    next(folder.glob("model-*")).unlink()
    with pytest.raises(ModelFileError, match=r"model-0000.*missing"):
        open_model(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "../x.safetensors"}}))
    with pytest.raises(ModelFileError, match="plain file name|missing"):
        open_model(folder)
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(ModelFileError, match="model.safetensors: the file is missing"):
        open_model(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelFileError, match="config.json: not readable as JSON"):
        open_model(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ModelFileError, match="config.json: the file is missing"):
        open_model(folder)
