"""Pretrains the tiny LLaMA of examples/tiny-llama/ from nothing and writes examples/haiku.jsonl.

    python -m examples.pretrain [--out examples] [--steps 2000]

Model: LLaMA, d 64, 2 layers, 4 heads, 2 kv heads, head_dim 16, ffn 192, vocabulary 288 (byte-level BPE: 256 bytes, bos,
eos, 30 merges), untied head; next-token cross-entropy on `pretraining_lines`, AdamW in fp32 on one CPU thread, weights
stored as bf16. About two minutes. The shipped folder is this script's output; the texts and the tokenizer are the
same everywhere, the weights on one version of torch and one kind of processor.
"""

import argparse
import json
import math
from pathlib import Path

import torch
from safetensors.torch import save
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

from examples.corpus import pretraining_lines, sea_haiku

SEED = 11
LINES = 12000
VOCABULARY = 288
SEQUENCE = 64
BATCH = 32
PEAK_LEARNING_RATE = 4e-3
POEMS = 96
BOS, EOS = "<s>", "</s>"

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "head_dim": 16,
    "hidden_act": "silu",
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 192,
    "max_position_embeddings": 256,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": VOCABULARY,
}
TOKENIZER_CONFIG = {
    "add_bos_token": False,
    "bos_token": BOS,
    "clean_up_tokenization_spaces": False,
    "eos_token": EOS,
    "model_max_length": 256,
    "tokenizer_class": "PreTrainedTokenizerFast",
}


def train_tokenizer(lines: list[str]) -> Tokenizer:
    """Byte-level BPE with VOCABULARY ids: 0 bos, 1 eos, 256 bytes, then merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=[BOS, EOS], initial_alphabet=alphabet,
                                  show_progress=False)
    tokenizer.train_from_iterator(lines, trainer)
    return tokenizer


def batch_ids(tokenizer: Tokenizer, lines: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """ids [E, SEQUENCE+1] (bos, text, eos, padded with eos) and labels of that shape with -100 on padding."""
    ids = torch.full((len(lines), SEQUENCE + 1), 1)
    labels = torch.full((len(lines), SEQUENCE + 1), -100)
    for row, encoding in enumerate(tokenizer.encode_batch(lines, add_special_tokens=False)):
        line = torch.tensor([0, *encoding.ids, 1])
        ids[row, : len(line)] = line
        labels[row, : len(line)] = line
    return ids, labels


def pretrain(ids: torch.Tensor, labels: torch.Tensor, steps: int) -> LlamaForCausalLM:
    """AdamW, linear warm-up of 50 steps, cosine to zero; prints the loss every 100 steps."""
    torch.manual_seed(SEED)
    model = LlamaForCausalLM(LlamaConfig(**{k: v for k, v in CONFIG.items() if k != "torch_dtype"}))
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05, betas=(0.9, 0.98))
    generator = torch.Generator().manual_seed(SEED)
    for step in range(steps):
        rate = PEAK_LEARNING_RATE * min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        rows = torch.randint(len(ids), (BATCH,), generator=generator)
        loss = model(input_ids=ids[rows], labels=labels[rows]).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step:5d}  loss {loss.item():.4f}", flush=True)
    return model


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--steps", type=int, default=2000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    folder = arguments.out / "tiny-llama"
    folder.mkdir(parents=True, exist_ok=True)

    lines = list(pretraining_lines(LINES, SEED))
    tokenizer = train_tokenizer(lines)
    model = pretrain(*batch_ids(tokenizer, lines), arguments.steps)
    held_out = batch_ids(tokenizer, list(pretraining_lines(256, SEED + 1)))
    with torch.no_grad():
        print(f"held-out loss {model(input_ids=held_out[0], labels=held_out[1]).loss.item():.4f}")

    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "config.json", CONFIG)
    write_json(folder / "tokenizer_config.json", TOKENIZER_CONFIG)
    tensors = {name: value.to(torch.bfloat16).contiguous() for name, value in model.state_dict().items()}
    (folder / "model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))
    poems = "".join(json.dumps({"text": poem}) + "\n" for poem in sea_haiku(POEMS, SEED))
    (arguments.out / "haiku.jsonl").write_text(poems, encoding="utf-8")


if __name__ == "__main__":
    main()
