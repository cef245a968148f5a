"""Toy runs of every supported architecture: random weights without files, or folders written by transformers."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from protocol.manifest import WIDTHS
from protocol.model_config import ModelConfig
from prover.executor.calibrate import calibrate
from prover.files.hf_model import HfModel, LayerTensors, _expected_shapes, _layer_shapes, _layer_tensor, open_model
from prover.files.quantise import quantise_base
from tests.toy import Toy, toy

QWEN2 = "q_proj,k_proj,v_proj"
SEVEN = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"
ROPE3 = "llama3:8:1:4:16"
FEATURES: dict[str, dict[str, Any]] = {
    "llama3": {"rope_scaling": ROPE3, "bias": SEVEN},
    "qwen2": {"bias": QWEN2, "tied": 1},
    "qwen3": {"qk_norm": 1},
    "rows": {"weight_scales": "row"},
}


@dataclass(frozen=True)
class RandomModel:
    """As an opened folder, but made up: what quantise_base reads."""

    config: ModelConfig
    tensors: dict[str, np.ndarray]

    def layer(self, index: int) -> LayerTensors:
        return {name: self.tensors[_layer_tensor(index, name)] for name in _layer_shapes(self.config)}

    def embedding(self) -> np.ndarray:
        return self.tensors["model.embed_tokens.weight"]

    def final_norm(self) -> np.ndarray:
        return self.tensors["model.norm.weight"]

    def head(self) -> np.ndarray:
        return self.embedding() if self.config.tied else self.tensors["lm_head.weight"]


def random_model(config: ModelConfig, seed: int = 3) -> RandomModel:
    rng, tensors = np.random.default_rng(seed), {}
    for name, shape in _expected_shapes(config).items():
        if "norm" in name:
            value = rng.uniform(0.5, 1.5, shape)
        else:
            value = rng.normal(size=shape) * (0.5 if name.endswith("bias") else shape[-1] ** -0.5)
        tensors[name] = value.astype(np.float32)
    return RandomModel(config, tensors)


def toy_of(
    model: RandomModel | HfModel, weight_scales: str = "tensor", weight_bits: int = 12, calibration_steps: int = 4, **arguments: Any
) -> Toy:
    """A calibrated run on this model; `arguments` as of tests.toy.toy."""
    x = model.config
    sizes = {n: getattr(x, n) for n in ("vocab", "hidden", "heads", "kv_heads", "head_dim", "ffn")}
    plain = toy(layers=x.layers, sizes=sizes, **arguments)
    widths = WIDTHS | {"weight": weight_bits, "head": weight_bits}
    base, exponents = quantise_base(model, widths, weight_scales)  # type: ignore[arg-type]
    draft = replace(plain.manifest, model=x, widths=widths, weight_scales=weight_scales, exponents=exponents)
    found = calibrate(draft, base, plain.tokens, plain.mask, calibration_steps).exponents
    return Toy(replace(draft, exponents=found), base, plain.tokens, plain.mask)


def feature_toy(name: str, sizes: dict[str, int], **arguments: Any) -> Toy:
    """A run whose model has the features FEATURES[name]."""
    features = {"tied": 0} | FEATURES[name]
    scales = features.pop("weight_scales", "tensor")
    config = ModelConfig(layers=arguments.pop("layers", 1), rms_eps="0.00001", rope_theta="10000", **sizes, **features)
    return toy_of(random_model(config), scales, **arguments)


def saved(folder: Path, kind: str, **config: Any) -> tuple[Any, HfModel]:
    """A random model of a transformers class ("Llama", "Qwen3" …), every weight of it random, saved and opened as ours."""
    import transformers

    torch.manual_seed(5)
    model = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**config)).float().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.uniform_(0.5, 1.5)
            else:
                weight.normal_(0, 0.3 if name.endswith("bias") else weight.shape[-1] ** -0.5)
    model.save_pretrained(folder)
    return model, open_model(folder)
