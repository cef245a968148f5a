"""Reading Hugging Face folders: right values from every storage form, and a clear error for every defect."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from prover.files.hf_model import ModelFileError, open_model, read_config


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
    assert len(list(model.layers())) == 2


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["MistralForCausalLM"]}, "unknown architecture.*Mistral"),
        ({"model_type": "qwen2"}, "unknown architecture.*qwen2"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "rope_parameters"),
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"sliding_window": 4096}, "sliding_window"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"attention_dropout": 0.1}, "attention_dropout"),
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
