"""`make bench-gpu` as on a machine with a GPU, on a card that is not there: rates, fixed costs, every task of a step, verified."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from benchmarks import crew, gpu
from prover.backend.base import Backend
from prover.cost import rates
from tests.support.device import device


def test_provers_side_by_side(tmp_path: Path) -> None:
    setting = (replace(gpu.TOY, num_hidden_layers=1), 4, "goldilocks-2^10", "cpu", tmp_path / "toy", ("embed", "layer", "head"))
    found = crew.prove_together(setting, 2)
    assert sorted(r["task"] for r in found["tasks"]) == ["embed(0)", "head(0)", "layer(0, 0)"] and found["seconds"] > 0
    with pytest.raises(RuntimeError, match="no profile|nothing"):
        crew.prove_together((*setting[:2], "nothing", *setting[3:]), 2)


def test_a_whole_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "select", lambda _: device())
    monkeypatch.setitem(gpu.LARGE, "cuda", (12, 12, 13))
    monkeypatch.setattr(rates, "LARGE", 48)
    monkeypatch.setattr(rates, "MANY_ROUNDS", 8)
    found = gpu.main(["--backend", "cuda", "--shape", "toy", "--layers", "1", "--tokens", "4", "--profile", "goldilocks-2^10",
                      "--folder", str(tmp_path)])
    [step] = found["steps"]
    assert [r["task"] for r in step["tasks"]] == ["embed(0)", "layer(0, 0)", "head(0)"]
    assert all(r["proof_bytes"] > 0 and r["seconds"]["verify"] > 0 for r in step["tasks"])
    assert set(found["fixed"]) == {"launch", "sum", "copy there", "copy back"} and min(found["fixed"].values()) > 0


@pytest.mark.parametrize(("memory", "expected"), [(1 << 40, (28, 24, 26)), (4 << 30, (26, 24, 23)), (1 << 28, (22, 21, 19))])
def test_rates_of_a_device_are_measured_in_its_memory(memory: int, expected: tuple[int, ...]) -> None:
    assert gpu.sizes(cast(Backend, SimpleNamespace(name="cuda", memory=memory))) == expected
