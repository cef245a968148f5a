"""Exported adapters: exact in both directions, loaded by peft, refused when they are not what was proved."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from protocol.model_config import PROJECTIONS, ModelConfig
from prover.files.adapter import AdapterConfig, AdapterFileError, read_adapter, write_adapter
from prover.files.hf_model import read_config

TINY = ModelConfig(288, 64, 2, 4, 2, 16, 192, "0.00001", "10000", 0)


def random_weights(modules: tuple[str, ...], r: int) -> dict[tuple[int, str], tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(5)
    result = {}
    for layer in range(TINY.layers):
        for module in modules:
            d_out, d_in = TINY.projection_shape(module)
            result[layer, module] = (rng.integers(-(2**15), 2**15, (r, d_in)), rng.integers(-(2**15), 2**15, (d_out, r)))
    return result


@pytest.mark.parametrize("modules", [PROJECTIONS, ("down_proj", "q_proj")])
def test_round_trip_and_equal_bytes(tmp_path: Path, modules: tuple[str, ...]) -> None:
    config, weights = AdapterConfig(8, 16, modules), random_weights(modules, 8)
    first, second = (write_adapter(tmp_path / name, config, weights, "tiny-llama") for name in "ab")
    assert [f.read_bytes() for f in first] == [f.read_bytes() for f in second]
    found, values = read_adapter(tmp_path / "a")
    assert found.canonical() == config.canonical() and values.keys() == weights.keys()
    for key, (a, b) in weights.items():
        assert np.array_equal(values[key][0], a) and np.array_equal(values[key][1], b)


def test_peft_loads_it_and_computes_with_it(tmp_path: Path, examples: Path) -> None:
    from peft import PeftModel
    from transformers import LlamaForCausalLM

    assert read_config(examples / "tiny-llama" / "config.json") == TINY
    weights = random_weights(PROJECTIONS, 4)
    write_adapter(tmp_path / "a", AdapterConfig(4, 8, PROJECTIONS), weights, "tiny-llama")
    base = LlamaForCausalLM.from_pretrained(examples / "tiny-llama", dtype=torch.float32)
    q_before = base.model.layers[1].self_attn.q_proj.weight.detach().numpy().copy()
    model = PeftModel.from_pretrained(base, tmp_path / "a")
    loaded = {name: p for name, p in model.named_parameters() if "lora_" in name}
    assert len(loaded) == TINY.layers * 7 * 2
    for (layer, module), matrices in weights.items():
        for matrix, value in zip(("lora_A", "lora_B"), matrices, strict=True):
            (found,) = (p for n, p in loaded.items() if f"layers.{layer}." in n and f"{module}.{matrix}." in n)
            assert np.array_equal(found.detach().numpy() * 2.0**14, value)
    merged = model.merge_and_unload()
    a, b = weights[1, "q_proj"]
    update = 8 / 4 * (b / 2.0**14) @ (a / 2.0**14)
    q_after = merged.model.layers[1].self_attn.q_proj.weight.detach().numpy()
    np.testing.assert_allclose(q_after, q_before + update, atol=1e-4)


def test_nothing_is_replaced(tmp_path: Path) -> None:
    config, weights = AdapterConfig(2, 4, ("v_proj",)), random_weights(("v_proj",), 2)
    files = write_adapter(tmp_path, config, weights, "m")
    files[0].write_text("mine")
    with pytest.raises(AdapterFileError, match="already exists"):
        write_adapter(tmp_path, config, weights, "m")
    assert files[0].read_text() == "mine"


def test_values_that_do_not_fit_are_not_written(tmp_path: Path) -> None:
    config, weights = AdapterConfig(2, 4, ("v_proj",)), random_weights(("v_proj",), 2)
    weights[1, "v_proj"][0][0, 0] = 2**15
    with pytest.raises(AdapterFileError, match="layers.1.self_attn.v_proj.lora_A.*16 bits"):
        write_adapter(tmp_path, config, weights, "m")
    del weights[1, "v_proj"]
    with pytest.raises(AdapterFileError, match="target module"):
        write_adapter(tmp_path, AdapterConfig(2, 4, ("v_proj", "k_proj")), weights, "m")
    assert not list(tmp_path.iterdir())


def rounded_away(tensors: dict[str, np.ndarray]) -> None:
    next(iter(tensors.values()))[0, 0] = 2.0**-15


def not_a_number(tensors: dict[str, np.ndarray]) -> None:
    next(iter(tensors.values()))[0, 0] = np.nan


def too_large(tensors: dict[str, np.ndarray]) -> None:
    next(iter(tensors.values()))[0, 0] = 2.0


def half_precision(tensors: dict[str, np.ndarray]) -> None:
    tensors.update({name: value.astype(np.float16) for name, value in tensors.items()})


def missing(tensors: dict[str, np.ndarray]) -> None:
    del tensors[min(tensors)]


def foreign(tensors: dict[str, np.ndarray]) -> None:
    tensors["base_model.model.lm_head.weight"] = np.zeros((2, 2), np.float32)


@pytest.mark.parametrize("damage", [rounded_away, not_a_number, too_large, half_precision, missing, foreign])
def test_damaged_weights_are_refused(tmp_path: Path, damage: Any) -> None:
    _, file = write_adapter(tmp_path, AdapterConfig(2, 4, ("v_proj",)), random_weights(("v_proj",), 2), "m")
    tensors = load_file(file)
    damage(tensors)
    save_file(tensors, file)
    with pytest.raises(AdapterFileError, match="adapter_model.safetensors"):
        read_adapter(tmp_path)


@pytest.mark.parametrize("change", [{"use_dora": True}, {"bias": "all"}, {"r": 3}, {"rank_pattern": {"v": 1}},
                                    {"target_modules": "all-linear"}, {"target_modules": ["lm_head"]}, {"r": None}])
def test_other_functions_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    file, _ = write_adapter(tmp_path, AdapterConfig(2, 4, ("v_proj",)), random_weights(("v_proj",), 2), "m")
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(AdapterFileError):
        read_adapter(tmp_path)
