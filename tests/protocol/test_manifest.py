"""The manifest: canonical, strict, and a data order that visits every example once an epoch."""

import json
from collections.abc import Callable
from dataclasses import replace
from decimal import ROUND_HALF_UP, Decimal, localcontext
from typing import Any

import pytest

from protocol.encoding import canonical_json
from protocol.errors import VerificationError
from protocol.manifest import CHOICES, KEPT_ORDERS, VERSION, WIDTHS, Lora, RunManifest, StepRange, base_commitments
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


@pytest.mark.parametrize("data", [b"1", b"true", b'"manifest"', b"[]", b"[1]", b"{}"])
def test_what_is_no_manifest_at_all_is_rejected(data: bytes) -> None:
    with pytest.raises(VerificationError) as caught:
        RunManifest.from_json(data)
    assert caught.value.reason == "manifest"


def test_widths_of_this_version(manifest: RunManifest) -> None:
    """How many bits each kind of value has: another number is another relation. And how long a run's name is."""
    assert RunManifest.from_json(manifest.to_json()).widths == WIDTHS and manifest.run_id == manifest.digest()[:32]
    assert VERSION == 4 and CHOICES == {"weight": (12, 16), "head": (12, 16), "probability": (16, 20)}
    assert WIDTHS == {
        "weight": 12, "head": 12, "bias": 16, "gamma": 16, "embedding": 16, "activation": 16, "gradient": 16, "compute": 16,
        "probability": 16, "residual": 24, "row": 24, "du": 24, "delta": 24, "vocabulary_probability": 24, "moment": 25,
        "lora_gradient": 26, "momentum": 32, "master": 32,
    }


def test_the_first_seed_is_zero(manifest: RunManifest) -> None:
    assert RunManifest.from_json(replace(manifest, seed=0).to_json()).seed == 0


def test_windows_cover_the_steps(manifest: RunManifest) -> None:
    assert manifest.windows() == [StepRange(0, 2), StepRange(2, 2), StepRange(4, 1)]


def test_an_epoch_visits_every_example_once(manifest: RunManifest) -> None:
    per_epoch = manifest.examples // manifest.sequences
    for epoch in range(2):
        rows = [int(i) for k in range(per_epoch) for i in manifest.batch(epoch * per_epoch + k)]
        assert sorted(rows) == list(range(manifest.examples))
    assert manifest.batches(StepRange(2, 2), 0).tolist() == [manifest.batch(k).tolist() for k in (2, 3)]


def test_the_orders_of_few_epochs_are_kept(manifest: RunManifest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as have KEPT_ORDERS indices, and the last one in any case; an order that is drawn again is the same."""
    per_epoch = manifest.examples // manifest.sequences
    first, most = manifest.batch(0).tolist(), 0
    assert KEPT_ORDERS == 1 << 24
    monkeypatch.setattr("protocol.manifest.KEPT_ORDERS", 3 * manifest.examples)
    for epoch in range(10):
        manifest.batch(epoch * per_epoch)
        most = max(most, len(manifest._orders))
        assert epoch in manifest._orders
    assert most == 3 and 0 not in manifest._orders and manifest.batch(0).tolist() == first


def test_accumulated_batches_are_one_larger_batch() -> None:
    accumulated, larger = toy_manifest(batch_size=1, gradient_accumulation=3), toy_manifest(batch_size=3)
    assert [accumulated.batch(k).tolist() for k in range(4)] == [larger.batch(k).tolist() for k in range(4)]
    assert accumulated.loss_tokens == larger.loss_tokens


@pytest.mark.parametrize(("batch_size", "accumulation", "parts"), [(4, 1, 2), (1, 6, 3), (3, 2, 6), (2, 2, 1), (5, 1, 5)])
def test_parts_are_equal_runs_of_a_step_s_sequences(manifest: RunManifest, batch_size: int, accumulation: int, parts: int) -> None:
    sequences = batch_size * accumulation
    m = replace(manifest, batch_size=batch_size, gradient_accumulation=accumulation, parts=parts, examples=sequences + 1)
    assert m.part_numbers == (tuple(range(1, parts + 1)) if parts > 1 else (0,)) and m.part_sequences * parts == sequences
    window = StepRange(1, 3)
    found = [m.batches(window, part).tolist() for part in m.part_numbers]
    for place, step in enumerate(range(1, 4)):
        assert [len(rows[place]) for rows in found] == [m.part_sequences] * parts
        assert sum((rows[place] for rows in found), []) == m.batch(step).tolist()
    assert m.digest() != replace(m, parts=1).digest() or parts == 1


@pytest.mark.parametrize("parts", [0, -1, 3, 4, 6, 13, 1 << 12, (1 << 12) + 1, True, "2", [2], None])
def test_parts_that_no_step_has(manifest: RunManifest, parts: Any) -> None:
    """Of a step of two sequences; and they are written out where there is one, so that a run has one digest."""
    assert manifest.sequences == 2 and replace(manifest, parts=2).part_sequences == 1
    data = json.loads(manifest.to_json())
    change("parts", parts)(data)
    with pytest.raises(VerificationError, match="manifest at parts"):
        RunManifest.from_json(canonical_json(data))


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


@pytest.mark.parametrize(("r", "alpha"), [(2, 65535), (1, 65535), (4096, 1), (3, 7), (3, 65536), (7, 3), (4096, 65535), (1, 1), (12, 6)])
@pytest.mark.parametrize("rslora", [False, True])
def test_lora_scale_by_decimals(r: int, alpha: int, rslora: bool) -> None:
    """Exact where the weight is a multiple of a power of two, else its nearest multiple of 2^−k, k the least with 14 bits or more."""
    with localcontext(prec=60):
        weight = Decimal(alpha) / (Decimal(r).sqrt() if rslora else r)
        exact = next((k for k in range(30) if weight * 2**k == int(weight * 2**k)), None)
        k = next(k for k in range(60) if weight * 2**k >= 1 << 13) if exact is None else exact
        n = int((weight * 2**k).to_integral_value(ROUND_HALF_UP))
    while n % 2 == 0:
        n, k = n // 2, k - 1
    assert Lora(r, alpha, ("q_proj",), rslora).scale == (n, k)


def test_lora_limits() -> None:
    Lora(1, 1, ("q_proj",))
    Lora(1 << 12, 1 << 16, ("q_proj",))
    for r, alpha in (((1 << 12) + 1, 1), (1, (1 << 16) + 1), (0, 1), (1, 0)):
        with pytest.raises(VerificationError, match="manifest at lora"):
            Lora(r, alpha, ("q_proj",))


SMALL: dict[str, Any] = {"steps": 2, "window_steps": 1, "loss_tokens": (1, 1), "batch_size": 1, "sequence_length": 1, "examples": 1}


@pytest.mark.parametrize(("values", "key"), [
    ({"batch_size": 1 << 12, "examples": 1 << 22}, "batch_size"),
    ({"gradient_accumulation": 1 << 12, "examples": 1 << 22}, "gradient_accumulation"),
    ({"batch_size": 1 << 12, "parts": 1 << 12, "examples": 1 << 12}, "parts"),
    ({"sequence_length": 1 << 12}, "sequence_length"), ({"window_steps": 1 << 9}, "window_steps"), ({"examples": 1 << 22}, "examples"),
    ({"rotation_windows": 1 << 20}, "rotation_windows"), ({"seed": (1 << 63) - 1}, "seed"), ({"dataset_owner": "x" * 200}, "dataset_owner"),
    ({"exponents": {"x": 96}}, "exponents"), ({"exponents": {"x": -96}}, "exponents"),
    ({"batch_size": 3, "gradient_accumulation": 2, "examples": 6}, "batch_size"),  # all examples in each step
    ({"loss_tokens": (5, 1), "sequence_length": 5}, "loss_tokens"),
])
def test_the_largest_value_is_accepted_and_the_next_is_not(manifest: RunManifest, values: dict[str, Any], key: str) -> None:
    largest = replace(manifest, **SMALL | values)
    value = getattr(largest, key)
    if isinstance(value, dict):
        more: object = {k: n + (1 if n > 0 else -1) for k, n in value.items()}
    else:
        more = (value[0] + 1, *value[1:]) if isinstance(value, tuple) else value + ("x" if isinstance(value, str) else 1)
    with pytest.raises(VerificationError, match=f"manifest at {key}"):
        replace(largest, **{key: more})


def test_how_much_a_manifest_can_ask_for(manifest: RunManifest) -> None:
    """2^24 tokens in a window; 2^20 windows times layers times parts; no more steps than 2^20; no longer a warm-up than the run."""
    big = SMALL | {"examples": 1 << 12, "batch_size": 1 << 12, "sequence_length": 1 << 12}
    replace(manifest, **big)
    with pytest.raises(VerificationError, match="window_steps.*2\\^24"):
        replace(manifest, **big | {"window_steps": 2})
    replace(manifest, **big | {"steps": 1, "loss_tokens": (1,), "window_steps": 9})  # a window is no longer than the run
    with pytest.raises(VerificationError, match="manifest at parts"):  # a divisor, but too many
        replace(manifest, **SMALL | {"batch_size": 1 << 12, "gradient_accumulation": 2, "examples": 1 << 13, "parts": 1 << 13})
    steps = 1 << 20
    many = replace(manifest, **SMALL | {"steps": steps, "loss_tokens": (1,) * steps, "window_steps": 2})  # of two layers
    with pytest.raises(VerificationError, match="manifest at steps"):
        replace(many, window_steps=1)
    with pytest.raises(VerificationError, match="manifest at steps"):
        replace(many, steps=steps + 1, loss_tokens=(1,) * (steps + 1), window_steps=4)
    with pytest.raises(VerificationError, match="manifest at steps"):
        replace(many, model=replace(manifest.model, layers=3))
    two = SMALL | {"batch_size": 1 << 12, "gradient_accumulation": 2, "examples": 1 << 13}
    assert replace(manifest, **two | {"parts": 1 << 12}).part_sequences == 2
    with pytest.raises(VerificationError, match="manifest at parts: expected 1 … 4096"):
        replace(manifest, **two | {"parts": 1 << 13})
    parted = SMALL | {"steps": steps // 4, "loss_tokens": (1,) * (steps // 4), "examples": 4}  # of two layers
    replace(manifest, **parted | {"batch_size": 2, "parts": 2})
    for batch_size in (3, 4):
        with pytest.raises(VerificationError, match="manifest at steps.*windows times layers times parts"):
            replace(manifest, **parted | {"batch_size": batch_size, "parts": batch_size})
    warm = replace(manifest.optimizer, warmup_steps=2)
    replace(manifest, **SMALL | {"optimizer": warm})
    with pytest.raises(VerificationError, match="warmup_steps"):
        replace(manifest, **SMALL | {"optimizer": warm, "steps": 1, "loss_tokens": (1,)})
