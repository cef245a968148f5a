"""The fp32 PEFT fine-tune that the audited integer run is compared with: loss per step for given batches.

    python -m examples.reference_finetune [--learning-rate 0.05] [--steps 8]

LoRA on all seven projections through `peft`, SGD with heavy-ball momentum v ← μ·v + g, w ← w − lr·v, where g is the
gradient of the mean token loss of the batch. Development aid: needs transformers and peft, called by the tests.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaForCausalLM

from protocol.model_config import PROJECTIONS
from prover.files.dataset import TokenisedDataset, load_dataset

HERE = Path(__file__).parent


def lora_model(folder: Path, r: int = 8, lora_alpha: int = 16, seed: int = 7) -> PeftModel:
    """The fp32 model with PEFT's default initialisation (A Kaiming-uniform, B zero)."""
    torch.manual_seed(seed)
    base = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = LoraConfig(r=r, lora_alpha=lora_alpha, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM",
                        target_modules=list(PROJECTIONS))
    return get_peft_model(base, config)


def mean_loss(model: PeftModel, dataset: TokenisedDataset, rows: Sequence[int]) -> torch.Tensor:
    """Mean cross-entropy over the unmasked labels of the examples `rows`."""
    ids = torch.from_numpy(dataset.tokens[list(rows)])
    mask = torch.from_numpy(dataset.mask[list(rows)]).bool()
    logits = model(input_ids=ids[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits[mask], ids[:, 1:][mask])


def finetune(
    model: PeftModel, dataset: TokenisedDataset, batches: Sequence[Sequence[int]], learning_rate: float, momentum: float
) -> list[float]:
    """Trains in place on `batches` (example indices per step); returns the loss before each update."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=learning_rate, momentum=momentum)
    losses = []
    for rows in batches:
        loss = mean_loss(model, dataset, rows)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--learning-rate", type=float, default=0.05)
    parser.add_argument("--momentum", type=float, default=0.9)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=4)
    arguments = parser.parse_args()
    folder = HERE / "tiny-llama"
    dataset = load_dataset(HERE / "haiku.jsonl", folder, sequence_length=64)
    order = np.random.default_rng(7).permutation(len(dataset.tokens))
    batches = [order[k * arguments.batch_size : (k + 1) * arguments.batch_size].tolist() for k in range(arguments.steps)]
    model = lora_model(folder)
    held_out = order[arguments.steps * arguments.batch_size :].tolist()
    before = mean_loss(model, dataset, held_out).item()
    losses = finetune(model, dataset, batches, arguments.learning_rate, arguments.momentum)
    after = mean_loss(model, dataset, held_out).item()
    largest = max(p.abs().max().item() for p in model.parameters() if p.requires_grad)
    print("loss per step:", " ".join(f"{loss:.4f}" for loss in losses), f"(fall {1 - losses[-1] / losses[0]:.1%})")
    print(f"examples not trained on: {before:.4f} -> {after:.4f}; largest adapter value {largest:.4f}")


if __name__ == "__main__":
    main()
