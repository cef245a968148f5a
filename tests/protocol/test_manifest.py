"""The manifest: canonical, strict, and a data order that visits every example once an epoch."""

import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from protocol.encoding import canonical_json
from protocol.errors import VerificationError
from protocol.manifest import Lora, Optimizer, RunManifest, StepRange, base_commitments
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
    ("seed", None), ("surprise", 1), ("seed", "7"), ("seed", True), ("seed", -1), ("publish_loss", 1), ("version", 2),
    ("lora.r", 0), ("lora.r", None), ("lora.more", 1), ("lora.target_modules", ["v_proj", "q_proj"]),
    ("lora.target_modules", []), ("lora.target_modules", ["lm_head"]), ("optimizer.kind", "adamw"),
    ("optimizer.lr_integer", 1 << 14), ("optimizer.learning_rate", "5e-1"), ("optimizer.momentum", "1"),
    ("loss_tokens", [1]), ("loss_tokens", [1, 1, 1, 1, "1"]), ("widths.master", None), ("widths.master", 99),
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
    per_epoch = manifest.examples // manifest.batch_size
    for epoch in range(2):
        rows = [int(i) for k in range(per_epoch) for i in manifest.batch(epoch * per_epoch + k)]
        assert sorted(rows) == list(range(manifest.examples))
    assert manifest.batches(StepRange(2, 2)).tolist() == [manifest.batch(k).tolist() for k in (2, 3)]


@pytest.mark.parametrize("rate", ["0.05", "1", "0.000001", "1024", "0.99999999", "0.000030517578125"])
def test_learning_rate_has_fifteen_bits(rate: str) -> None:
    o = Optimizer("sgd", "0.9", rate)
    assert 1 << 14 <= o.lr_integer < 1 << 15
    assert abs(Fraction(o.lr_integer) / Fraction(2) ** o.lr_exponent / Fraction(rate) - 1) < Fraction(1, 1 << 15)


@pytest.mark.parametrize(("r", "alpha", "scale"), [(8, 16, (1, -1)), (8, 8, (1, 0)), (16, 4, (1, 2)), (2, 3, (3, 1))])
def test_lora_scale(r: int, alpha: int, scale: tuple[int, int]) -> None:
    assert Lora(r, alpha, ("q_proj",)).scale == scale
