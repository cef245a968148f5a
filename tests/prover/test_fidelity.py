"""Integer training against PEFT LoRA in fp32: same base, same initial adapter, same batches, same mask.

The comparison must also fail when it should: with updates dropped, and with lora_A's updates dropped.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from protocol.manifest import Lora, Optimizer, RunManifest
from protocol.model_config import PROJECTIONS
from protocol.relation.graph import IntArray
from protocol.streams import initial_lora_a
from prover.executor.prepare import Prepared, prepare
from prover.executor.trainer import Trainer
from prover.files.dataset import load_dataset
from prover.files.hf_model import open_model

torch.set_num_threads(1)  # on a busy machine two spinning threads are slower than one

EXAMPLES = Path(__file__).parents[2] / "examples"
State = dict[int, dict[str, IntArray]]
Tamper = Callable[[RunManifest, State], State]


@dataclass(frozen=True)
class Curve:
    """Mean token loss per step and the adapter's total change, by (layer, "q_proj.lora_A")."""

    losses: list[float]
    changes: dict[tuple[int, str], IntArray]


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    dataset = load_dataset(EXAMPLES / "haiku.jsonl", EXAMPLES / "tiny-llama", 64)
    return prepare(
        open_model(EXAMPLES / "tiny-llama"), dataset, name="fidelity", lora=Lora(8, 16, PROJECTIONS),
        optimizer=Optimizer("sgd", "0.9", "0.05"), batch_size=4, steps=8, window_steps=1, seed=7, publish_loss=True,
        base_visibility="private", profile="demo",
    )


def start(m: RunManifest, layer: int, module: str, shape: tuple[int, ...]) -> IntArray:
    return initial_lora_a(m.seed, layer, module, shape)


def integer_curve(p: Prepared, tamper: Tamper | None = None) -> Curve:
    trainer, state, losses = Trainer(p.manifest, p.base, p.tokens, p.mask), None, []
    for window in p.manifest.windows():
        trace = trainer.run_window(window, state, lambda _, loss: losses.append(loss))
        state = trace.state_out if tamper is None else tamper(p.manifest, trace.state_out)
    changes = {}
    for layer, tensors in (state or {}).items():
        for name, values in tensors.items():
            if not name.endswith("momentum"):
                module, matrix = name.split(".")
                first = start(p.manifest, layer, module, values.shape) if matrix == "lora_A" else 0
                changes[layer, name] = (values - first).ravel()
    return Curve(losses, changes)


@pytest.fixture(scope="module")
def fp32(prepared: Prepared) -> Curve:
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM

    m = prepared.manifest
    model = LlamaForCausalLM.from_pretrained(EXAMPLES / "tiny-llama", dtype=torch.float32)
    config = LoraConfig(r=m.lora.r, lora_alpha=m.lora.lora_alpha, target_modules=list(m.lora.target_modules),
                        lora_dropout=0.0)
    model = get_peft_model(model, config)
    weights = {n: w for n, w in model.named_parameters() if w.requires_grad}
    names = {}
    for name, weight in weights.items():
        parts = name.split(".")
        layer, module, matrix = int(parts[parts.index("layers") + 1]), parts[-4], parts[-3]
        names[layer, f"{module}.{matrix}"] = weight
        with torch.no_grad():
            if matrix == "lora_A":
                weight.copy_(torch.from_numpy(start(m, layer, module, tuple(weight.shape)) * 2.0**-24))
    first = {key: weight.detach().clone() for key, weight in names.items()}
    optimizer, losses = torch.optim.SGD(weights.values(), lr=0.05, momentum=0.9), []
    for k in range(m.steps):
        index = m.batch(k)
        ids, mask = torch.from_numpy(prepared.tokens[index]), torch.from_numpy(prepared.mask[index])
        logits = model(input_ids=ids[:, :-1]).logits
        each = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        loss = (each * mask.flatten()).sum() / mask.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return Curve(losses, {k: (w.detach() - first[k]).double().numpy().ravel() for k, w in names.items()})


def differences(integer: Curve, reference: Curve) -> list[str]:
    """Everything that is not as promised."""
    found = []
    for k, (a, b) in enumerate(zip(integer.losses, reference.losses, strict=True)):
        if abs(a - b) > 0.01 * b:
            found.append(f"loss of step {k}: {a:.4f}, fp32 {b:.4f}")
    for key, change in reference.changes.items():
        norm = float(np.linalg.norm(integer.changes[key]) * np.linalg.norm(change))
        cosine = float(integer.changes[key] @ change) / norm if norm else 0.0
        if cosine < 0.99:
            found.append(f"change of {key}: cosine {cosine:.4f}")
    return found


def test_integer_training_follows_fp32_peft(prepared: Prepared, fp32: Curve) -> None:
    assert fp32.losses[-1] < 0.9 * fp32.losses[0]
    assert differences(integer_curve(prepared), fp32) == []


def test_calibration_leaves_its_headroom(prepared: Prepared) -> None:
    for row in prepared.calibration.table:
        if row.maximum > 0:
            assert row.maximum * 2.0**row.exponent <= 2.0 ** (row.bits - 1 - row.headroom), row.key


def drop_updates(m: RunManifest, state: State) -> State:
    return drop_lora_a(m, {n: {k: np.zeros_like(v) for k, v in layer.items()} for n, layer in state.items()})


def drop_lora_a(m: RunManifest, state: State) -> State:
    return {n: {k: start(m, n, k.split(".")[0], v.shape) if k.endswith("lora_A")
                else np.zeros_like(v) if k.endswith("lora_A.momentum") else v for k, v in layer.items()}
            for n, layer in state.items()}


@pytest.mark.parametrize("tamper", [drop_updates, drop_lora_a])
def test_comparison_has_teeth(prepared: Prepared, fp32: Curve, tamper: Tamper) -> None:
    assert differences(integer_curve(prepared, tamper), fp32) != []
