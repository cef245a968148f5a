"""The shipped model and data set: what transformers makes of them, and that the model was pretrained."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from examples.corpus import pretraining_lines, sea_haiku
from examples.pretrain import LINES, POEMS, SEED, train_tokenizer
from protocol.manifest import WIDTHS
from protocol.model_config import PROJECTIONS
from prover.files.dataset import TokenisedDataset, load_dataset
from prover.files.hf_model import open_model
from prover.files.quantise import dequantise, quantise, quantise_head, quantise_layer


def mean_loss(model: torch.nn.Module, data: TokenisedDataset, rows: slice) -> float:
    from benchmarks.peft_run import token_losses

    with torch.no_grad():
        return float(token_losses(model, data.tokens[rows], data.mask[rows])) / float(data.mask[rows].sum())


@pytest.fixture(scope="module")
def haiku(examples: Path) -> TokenisedDataset:
    return load_dataset(examples / "haiku.jsonl", examples / "tiny-llama", 64)


def test_files_are_the_scripts_output(examples: Path) -> None:
    lines = (examples / "haiku.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == sea_haiku(POEMS, SEED)
    tokenizer = train_tokenizer(list(pretraining_lines(LINES, SEED)))
    assert json.loads(tokenizer.to_str()) == json.loads((examples / "tiny-llama" / "tokenizer.json").read_text())


def test_transformers_reads_the_same_model(examples: Path, haiku: TokenisedDataset) -> None:
    from transformers import AutoTokenizer, LlamaForCausalLM

    folder = examples / "tiny-llama"
    assert sum(f.stat().st_size for f in folder.iterdir()) < 1_500_000
    hf = LlamaForCausalLM.from_pretrained(folder)
    ours = open_model(folder)
    state = {name: value.float().numpy() for name, value in hf.state_dict().items()}
    assert state.keys() == ours.files.keys()
    assert all(np.array_equal(ours._read(name), value) for name, value in state.items())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, len(tokenizer)) == (0, 1, ours.config.vocab)
    text = sea_haiku(POEMS, SEED)[0]
    length = int(haiku.mask[0].sum())
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == haiku.tokens[0, 1:length].tolist()


def test_quantised_weights_are_the_same_function(examples: Path, haiku: TokenisedDataset) -> None:
    """Folded norms, head order and exponents put back into transformers' model: the loss moves by less than 0.1 %."""
    from transformers import LlamaForCausalLM

    base, ours = LlamaForCausalLM.from_pretrained(examples / "tiny-llama", dtype=torch.float32), open_model(examples / "tiny-llama")
    before = mean_loss(base, haiku, slice(16))
    tensors = {"model.embed_tokens": quantise(ours.embedding(), WIDTHS["embedding"]),
               "lm_head": quantise_head(ours.head(), ours.final_norm(), WIDTHS)["W"]}
    for l in range(ours.config.layers):
        raw = ours.layer(l)
        layer = quantise_layer(ours.config, raw, WIDTHS)
        for name in PROJECTIONS:
            block = "mlp" if name in ("gate_proj", "up_proj", "down_proj") else "self_attn"
            tensors[f"model.layers.{l}.{block}.{name}"] = layer[f"W_{name.removesuffix('_proj')}"]
    for name, tensor in tensors.items():
        weight = base.get_submodule(name).weight
        weight.data = torch.from_numpy(dequantise(tensor)).reshape(weight.shape).float()
    for name, parameter in base.named_parameters():
        if "norm" in name:
            parameter.data.fill_(1.0)
    after = mean_loss(base, haiku, slice(16))
    assert before != after and abs(after - before) < 1e-3 * before


def test_model_was_pretrained(examples: Path, tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    file = tmp_path / "unseen.jsonl"
    file.write_text("".join(json.dumps({"text": line}) + "\n" for line in pretraining_lines(64, SEED + 2)))
    data = load_dataset(file, examples / "tiny-llama", 80)
    model = LlamaForCausalLM.from_pretrained(examples / "tiny-llama", dtype=torch.float32)
    assert mean_loss(model, data, slice(64)) < 1.3  # a uniform guess: ln 288 = 5.66
