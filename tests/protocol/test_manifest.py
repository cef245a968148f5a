"""The manifest: canonical, strict, and a data order that visits every example once an epoch."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from protocol.encoding import canonical_json
from protocol.errors import VerificationError
from protocol.manifest import VERSION, Lora, RunManifest, StepRange, base_commitments
from tests.toy import toy_manifest


@pytest.fixture(scope="module")
def manifest() -> RunManifest:
    m = toy_manifest(layers=2, steps=5, window_steps=2)
    return replace(m, commitments=dict.fromkeys(base_commitments(m.model), "0" * 64))


def test_round_trip(manifest: RunManifest) -> None:
    again = RunManifest.from_json(manifest.to_json())
    assert again == manifest and again.digest() == manifest.digest()
    assert replace(manifest, seed=8).digest() != manifest.digest()


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def apply(data: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for key in parents:
            data = data[key]
        if value is None:
            del data[last]
        else:
            data[last] = value
    return apply


@pytest.mark.parametrize(("path", "value"), [
    ("seed", None), ("surprise", 1), ("seed", "7"), ("seed", True), ("seed", -1), ("publish_loss", 1), ("version", VERSION - 1),
    ("lora.r", 0), ("lora.r", None), ("lora.more", 1), ("lora.target_modules", ["v_proj", "q_proj"]),
    ("lora.target_modules", []), ("lora.target_modules", ["lm_head"]), ("optimizer.kind", "adamw"),
    ("optimizer.rate", 1 << 14), ("optimizer.learning_rate", "5e-1"), ("optimizer.momentum", "1"), ("optimizer.beta1", None),
    ("optimizer.beta1", "0.8"), ("optimizer.warmup_steps", 6), ("optimizer.warmup_steps", "1"), ("optimizer.schedule", "polynomial"),
    ("gradient_accumulation", 0), ("gradient_accumulation", 4), ("lora.use_rslora", 1), ("weight_scales", "column"), ("dataset_owner", 7),
    ("loss_tokens", [1]), ("loss_tokens", [1, 1, 1, 1, "1"]), ("widths.master", None), ("widths.master", 99), ("widths.weight", 14),
    ("exponents.x", 1000), ("exponents.x", "1"), ("commitments.head", None), ("commitments.head", "00"),
    ("batch_size", 100), ("steps", 0), ("model.tied", 2), ("base_visibility", "secret"), ("budgets", []),
])
def test_everything_else_is_rejected(manifest: RunManifest, path: str, value: Any) -> None:
    data = json.loads(manifest.to_json())
    change(path, value)(data)
    with pytest.raises(VerificationError):
        RunManifest.from_json(canonical_json(data))


def test_other_encodings_are_rejected(manifest: RunManifest) -> None:
    with pytest.raises(VerificationError):
        RunManifest.from_json(manifest.to_json() + b" ")


def test_windows_cover_the_steps(manifest: RunManifest) -> None:
    assert manifest.windows() == [StepRange(0, 2), StepRange(2, 2), StepRange(4, 1)]


def test_an_epoch_visits_every_example_once(manifest: RunManifest) -> None:
    per_epoch = manifest.examples // manifest.sequences
    for epoch in range(2):
        rows = [int(i) for k in range(per_epoch) for i in manifest.batch(epoch * per_epoch + k)]
        assert sorted(rows) == list(range(manifest.examples))
    assert manifest.batches(StepRange(2, 2)).tolist() == [manifest.batch(k).tolist() for k in (2, 3)]


def test_accumulated_batches_are_one_larger_batch() -> None:
    accumulated, larger = toy_manifest(batch_size=1, gradient_accumulation=3), toy_manifest(batch_size=3)
    assert [accumulated.batch(k).tolist() for k in range(4)] == [larger.batch(k).tolist() for k in range(4)]
    assert accumulated.loss_tokens == larger.loss_tokens


@pytest.mark.parametrize(("r", "alpha", "scale"), [(8, 16, (1, -1)), (8, 8, (1, 0)), (16, 4, (1, 2)), (2, 3, (3, 1)), (64, 1, (1, 6))])
def test_lora_scale(r: int, alpha: int, scale: tuple[int, int]) -> None:
    assert Lora(r, alpha, ("q_proj",)).scale == scale
    if r == 16:
        assert Lora(r, alpha, ("q_proj",), use_rslora=True).scale == (1, 0)


@pytest.mark.parametrize(
    ("r", "alpha", "rslora"), [(3, 7, False), (6, 4, False), (8, 16, True), (2, 1, True), (4096, 1, True), (3, 65536, True)]
)
def test_lora_scale_is_the_nearest_number(r: int, alpha: int, rslora: bool) -> None:
    """n·2^−k with 14 bits, half a unit in the last place away at most."""
    n, k = Lora(r, alpha, ("q_proj",), rslora).scale
    assert n % 2 == 1 and abs(n * 2.0**-k / (alpha / (r**0.5 if rslora else r)) - 1) < 2.0**-13
