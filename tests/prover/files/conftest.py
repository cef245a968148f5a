"""A small LLaMA folder with random weights that tests may damage, and the shipped example folder."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from protocol.model_config import ModelConfig
from prover.files import hf_model

SMALL = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 288, "hidden_size": 12,
    "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 4,
    "intermediate_size": 20, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "tie_word_embeddings": False,
    "hidden_act": "silu", "bos_token_id": 0, "eos_token_id": 1,
}


class Folder:
    """Writes config.json and safetensors; `tensors` and `config` may be changed before `write`."""

    def __init__(self, path: Path, dtype: torch.dtype = torch.float32) -> None:
        self.path, self.config = path, dict(SMALL)
        generator = torch.Generator().manual_seed(3)
        shapes = hf_model._expected_shapes(ModelConfig(288, 12, 2, 6, 3, 4, 20, "0.00001", "10000", 0))
        self.tensors = {n: torch.randn(s, generator=generator).to(dtype) for n, s in shapes.items()}

    def write(self, shards: int = 1) -> Path:
        (self.path / "config.json").write_text(json.dumps(self.config))
        if shards == 1:
            save_file(self.tensors, self.path / "model.safetensors")
            return self.path
        names = sorted(self.tensors)
        weight_map = {name: f"model-{k % shards + 1:05}-of-{shards:05}.safetensors" for k, name in enumerate(names)}
        for shard in set(weight_map.values()):
            part = {name: self.tensors[name] for name in names if weight_map[name] == shard}
            save_file(part, self.path / shard)
        (self.path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        return self.path


@pytest.fixture
def small(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture(scope="session")
def examples() -> Path:
    return Path(__file__).parents[3] / "examples"
