"""Real shapes with random weights, since real weights cannot lie in a repository: Hugging Face folders that everything reads as usual.

    python -m benchmarks.shapes NAME FOLDER [--layers N]

Weights are normal with standard deviation 1/√d_in (norms are 1), bfloat16, from a fixed seed (a GPU's differ from a CPU's), one file for
each layer, so that memory stays at one layer. Called by benchmarks/stage.py and by hand.
"""

import argparse
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file


@dataclass(frozen=True)
class Shape:
    """A LLaMA decoder's sizes, in the words of config.json."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads


SHAPES = {
    "tinyllama-1.1b": Shape(2048, 5632, 22, 32, 4, 32000),
    "llama-2-7b": Shape(4096, 11008, 32, 32, 32, 32000),
    "llama-2-13b": Shape(5120, 13824, 40, 40, 40, 32000),
}


def write_folder(folder: Path, shape: Shape, seed: int = 1) -> Path:
    """config.json, an index, and one safetensors file for each layer and one for the rest; the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    random = torch.Generator(device).manual_seed(seed)

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return (torch.randn(rows, columns, generator=random, device=device) / columns**0.5).to(torch.bfloat16).cpu()

    d, ffn, keys = shape.hidden_size, shape.intermediate_size, shape.num_key_value_heads * shape.head_dim
    attention = {"q_proj": (d, d), "k_proj": (keys, d), "v_proj": (keys, d), "o_proj": (d, d)}
    mlp = {"gate_proj": (ffn, d), "up_proj": (ffn, d), "down_proj": (d, ffn)}
    index: dict[str, str] = {}

    def save(name: str, tensors: dict[str, torch.Tensor]) -> None:
        save_file(tensors, folder / name)
        index.update(dict.fromkeys(tensors, name))

    for layer in range(shape.num_hidden_layers):
        prefix = f"model.layers.{layer}."
        tensors = {f"{prefix}self_attn.{name}.weight": matrix(*size) for name, size in attention.items()}
        tensors |= {f"{prefix}mlp.{name}.weight": matrix(*size) for name, size in mlp.items()}
        norms = ("input_layernorm", "post_attention_layernorm")
        save(f"layer-{layer}.safetensors", tensors | {f"{prefix}{name}.weight": torch.ones(d, dtype=torch.bfloat16) for name in norms})
    save("ends.safetensors", {
        "model.embed_tokens.weight": matrix(shape.vocab_size, d), "model.norm.weight": torch.ones(d, dtype=torch.bfloat16),
        "lm_head.weight": matrix(shape.vocab_size, d),
    })
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    config = asdict(shape) | {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "head_dim": shape.head_dim, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "attention_bias": False, "mlp_bias": False,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shapes")
    parser.add_argument("name", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=0, help="so many layers instead of all")
    arguments = parser.parse_args()
    shape = SHAPES[arguments.name]
    if arguments.layers:
        shape = replace(shape, num_hidden_layers=arguments.layers)
    print(write_folder(arguments.folder, shape))


if __name__ == "__main__":
    main()
