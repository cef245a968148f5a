"""Integer training against PEFT LoRA in fp32: same base, same initial adapter, same batches, same mask.

The comparison must also fail when it should: with updates dropped, and with lora_A's updates dropped.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from protocol.manifest import Lora, RunManifest
from protocol.model_config import PROJECTIONS
from protocol.optimizer import Optimizer
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
        optimizer=Optimizer(kind="sgd", momentum="0.9", learning_rate="0.05"), batch_size=4, steps=8,
        window_steps=1, seed=7, publish_loss=True, base_visibility="private", profile="demo",
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
    from benchmarks.peft_run import peft_run

    found = peft_run(prepared.manifest, EXAMPLES / "tiny-llama", prepared.tokens, prepared.mask)
    return Curve(found.losses, {key: change.double().numpy().ravel() for key, change in found.changes.items()})


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
