"""The fp32 fine-tune that users of PEFT run, on a manifest's batches: what the audited integer run is compared with.

LoRA through `peft` on the folder's model, torch.optim.SGD or AdamW, transformers' schedules, torch's clipping by global norm,
gradients of the mean loss over a step's loss tokens accumulated over micro-batches; the initial adapter is the manifest's.
Needs transformers and peft. Called by benchmarks/fidelity.py and tests/prover/test_fidelity.py.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, get_scheduler

from protocol.manifest import RunManifest
from protocol.relation.graph import IntArray
from protocol.streams import MASTER_BITS, initial_lora_a


@dataclass(frozen=True, eq=False)
class PeftRun:
    """Mean token loss before every step, the trained model, and the adapter's total change by (layer, "q_proj.lora_A")."""

    losses: list[float]
    model: PeftModel
    changes: dict[tuple[int, str], torch.Tensor]


def lora_model(manifest: RunManifest, folder: Path) -> tuple[PeftModel, dict[tuple[int, str], torch.nn.Parameter]]:
    """The fp32 model with the manifest's initial adapter, and its trainable matrices."""
    lora = manifest.lora
    config = LoraConfig(r=lora.r, lora_alpha=lora.lora_alpha, target_modules=list(lora.target_modules), lora_dropout=0.0,
                        use_rslora=lora.use_rslora, task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), config)
    matrices = {}
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        parts = name.split(".")
        layer, module, matrix = int(parts[parts.index("layers") + 1]), parts[-4], parts[-3]
        matrices[layer, f"{module}.{matrix}"] = weight
        if matrix == "lora_A":
            start = initial_lora_a(manifest.seed, layer, module, tuple(weight.shape)) * 2.0**-MASTER_BITS
            weight.data.copy_(torch.from_numpy(start))
    return model, matrices


def token_losses(model: torch.nn.Module, tokens: IntArray, mask: IntArray) -> torch.Tensor:
    """Σ of the cross-entropy of the unmasked labels of these rows, in nats."""
    ids, kept = torch.from_numpy(tokens), torch.from_numpy(mask).bool()
    logits = model(input_ids=ids[:, :-1]).logits.float()
    return torch.nn.functional.cross_entropy(logits[kept], ids[:, 1:][kept], reduction="sum")


def peft_run(manifest: RunManifest, folder: Path, tokens: IntArray, mask: IntArray, bfloat16: bool = False) -> PeftRun:
    """Train every step of the manifest, in fp32 or under bfloat16 autocast."""
    model, matrices = lora_model(manifest, folder)
    first = {key: weight.detach().clone() for key, weight in matrices.items()}
    o = manifest.optimizer
    rate, parameters = float(o.learning_rate), list(matrices.values())
    if o.kind == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(parameters, lr=rate, momentum=float(o.momentum))
    else:
        optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(float(o.beta1), float(o.beta2)), eps=float(o.epsilon),
                                      weight_decay=float(o.weight_decay))
    name = "constant_with_warmup" if o.schedule == "constant" else o.schedule
    schedule = get_scheduler(name, optimizer, num_warmup_steps=o.warmup_steps, num_training_steps=manifest.steps)
    losses = []
    for k in range(manifest.steps):
        rows, total = manifest.batch(k), 0.0
        optimizer.zero_grad()
        for at in range(0, manifest.sequences, manifest.batch_size):
            index = rows[at : at + manifest.batch_size]
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                loss = token_losses(model, tokens[index], mask[index]) / manifest.loss_tokens[k]
            loss.backward()
            total += float(loss.detach())
        if o.clips:
            torch.nn.utils.clip_grad_norm_(parameters, float(o.max_grad_norm))
        optimizer.step()
        schedule.step()
        losses.append(total)
    return PeftRun(losses, model, {key: weight.detach() - first[key] for key, weight in matrices.items()})
