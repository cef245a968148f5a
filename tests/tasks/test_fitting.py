"""A run that does not fit is refused with settings that do: they are tried, and the next larger ones are not enough."""

import re
from dataclasses import replace

import pytest

from protocol.manifest import RunManifest
from protocol.relation.model import build
from prover.cost.work import EVERYTHING, Memory, Place
from tasks.estimate import Estimate, PlanError, choose, kind_memory
from tasks.fitting import _largest, bisect, divisors, fewest_parts, require_memory
from tests.toy import EVEN, toy


def planned() -> tuple[object, Estimate]:
    made = toy(layers=1, steps=4, window_steps=4, batch_size=3, sequence_length=12, sizes=EVEN, target_modules=("q_proj",)).manifest
    return made, choose(made, 100, ("goldilocks-2^10",), spare=0)


def test_what_fits_is_accepted_and_what_does_not_is_refused_with_what_would() -> None:
    manifest, estimate = planned()
    worst = max(estimate.kinds, key=lambda kind: kind.memory.peak)
    require_memory(manifest, estimate, worst.memory.peak + 5, 5)  # type: ignore[arg-type]
    with pytest.raises(PlanError) as refused:
        require_memory(manifest, estimate, worst.memory.peak + 4, 5)  # type: ignore[arg-type]
    text = str(refused.value)
    assert f"a task of the kind {worst.kind} needs" in text and f'in its phase "{worst.memory.peak_phase}"' in text
    found = {name: int(value) for name, value in re.findall(r"training\.(\w+): (\d+)", text)}
    assert set(found) == {"batch_size", "sequence_length", "window_steps"}  # gradient_accumulation is 1 already
    chosen = replace(manifest, profile=estimate.profile, budgets=estimate.budgets)  # type: ignore[type-var]
    assert "what fits, each with the rest as it is, is audit.parts: 3 or " in text
    assert kind_memory(replace(chosen, parts=3), worst.kind).peak < worst.memory.peak  # type: ignore[type-var]
    for name, value in found.items():
        sizes = [kind_memory(_changed(chosen, name, n), worst.kind).peak for n in (value, value + 1)]
        assert sizes[0] <= worst.memory.peak - 1 < sizes[1], name


def _changed(manifest: object, name: str, value: int) -> object:
    changed = {"batch_size": 3, "sequence_length": 12} | {name: value}
    tokens = changed["batch_size"] * changed["sequence_length"]
    return replace(manifest, **{name: value}, loss_tokens=tuple(min(n, tokens) for n in manifest.loss_tokens))  # type: ignore


@pytest.mark.parametrize("widest", [3, 8])
def test_the_widest_task_is_tried_first_and_never_alone_believed(monkeypatch: pytest.MonkeyPatch, widest: int) -> None:
    """`widest` bytes a token where the largest task takes 8: the answer is that of the largest, and of right guesses one is checked."""
    manifest, estimate = planned()
    asked = list[tuple[int, bool]]()

    def memory(changed: RunManifest, kind: str, place: Place, only_widest: bool = False) -> Memory:
        asked.append((changed.sequence_length, only_widest))
        return Memory({"tree": {"leaves": (widest if only_widest else 8) * changed.sequence_length}})

    monkeypatch.setattr("tasks.fitting.kind_memory", memory)
    assert _largest(replace(manifest, profile=estimate.profile), "layer", "sequence_length", 60, EVERYTHING) == 7  # type: ignore[type-var]
    whole = [length for length, alone in asked if not alone]
    assert whole == [7] if widest == 8 else whole[0] == 11


def test_nothing_fits_in_nothing() -> None:
    manifest, estimate = planned()
    with pytest.raises(PlanError, match="there are 1 B; no smaller batch, sequence or window alone makes it fit: take fewer provers"):
        require_memory(manifest, estimate, 1, 0)  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="there are 1 B for each of 8 processes; no smaller"):
        require_memory(manifest, estimate, 1, 0, said="for each of 8 processes")  # type: ignore[arg-type]


def test_the_fewest_parts_are_found() -> None:
    assert divisors(12) == [1, 2, 3, 4, 6, 12]
    for least in range(1, 14):
        assert fewest_parts(12, lambda n, least=least: n >= least) == min((n for n in divisors(12) if n >= least), default=12)


def test_the_largest_value_is_found() -> None:
    for top in range(9):
        assert all(bisect(1, top, lambda value, limit=limit: value <= limit) == min(limit, top) for limit in range(11))


def test_memory_grows_with_the_window() -> None:
    manifest, estimate = planned()
    chosen = replace(manifest, profile=estimate.profile, budgets=estimate.budgets)  # type: ignore[type-var]
    sizes = [kind_memory(_changed(chosen, "window_steps", n), "layer").peak for n in (1, 2, 4)]
    assert sizes == sorted(set(sizes)) and build(manifest, "layer", manifest.windows()[0], 0).lookups  # type: ignore[attr-defined, arg-type]
