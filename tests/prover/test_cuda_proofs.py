"""Whole proofs of every kind of task on a device: the bytes that the CPU backend makes, and nothing large comes back."""

from __future__ import annotations

import pytest

from protocol.statement import task_list
from prover.argument import opening
from prover.argument.prove import prove_task
from prover.backend import select
from prover.backend.base import Backend
from prover.backend.cpu import CpuBackend
from prover.commitment.commit import commit
from prover.witness.task import kept_values
from tests.support import card
from tests.support.device import card_only, device, launches
from tests.support.stage import PARAMS, Case, Stage, seed
from tests.toy import ODD, toy

KINDS = ("range", "rotate", "embed", "clip", "head", "layer")


@pytest.fixture(scope="module")
def every_kind() -> dict[str, Case]:
    """Odd sizes; a layer in the middle, with clipped AdamW, rotated between windows."""
    made = Stage(toy(sizes=ODD, layers=2, steps=4, batch_size=1, sequence_length=4, examples=3, target_modules=("o_proj",),
                     rotation_windows=1, kind="adamw", max_grad_norm="0.5"))
    tasks = {t.kind: t for t in task_list(made.toy.manifest)}
    assert set(tasks) == set(KINDS)
    return {kind: made.case(t.kind, t.window, t.layer, t.part) for kind, t in tasks.items()}


def prove(backend: Backend, case: Case) -> bytes:
    inputs = []
    for role, name in case.task.commitments:
        inputs.append((role, commit(backend, case.stage.layout(name), case.stage.arrays[str(name)], seed(str(name)))))
    published, values = case.published(), kept_values(backend, case.graph, case.values)
    return prove_task(backend, case.shape, case.statement(published), inputs, values, published, PARAMS, seed("attempt"), lambda: None)


@pytest.mark.parametrize("kind", KINDS)
def test_same_bytes(every_kind: dict[str, Case], kind: str) -> None:
    case = every_kind[kind]
    expected = prove(select("cpu"), case)
    for hand_over in (0, 256):
        assert prove(device(hand_over, 32), case) == expected
    assert prove(device(), case) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_opened_in_any_number_of_pieces(every_kind: dict[str, Case], kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All rows made into tables at once, as those of small commitments are; in groups of four of which all weights fit, and one by one."""
    case, backends = every_kind[kind], (select("cpu"), device(0, 32))
    expected, folded = prove(backends[0], case), list[int]()
    fold = CpuBackend.open_fold
    monkeypatch.setattr(CpuBackend, "open_fold", lambda self, f, rows, *more: (folded.append(rows.shape[1]), fold(self, f, rows, *more))[1])
    monkeypatch.setattr(opening, "FEW_CELLS", 1 << 40)
    for backend in backends:
        assert prove(backend, case) == expected
    assert not folded
    monkeypatch.setattr(opening, "FEW_CELLS", 0)
    for backend, size in ((backends[0], 1 << 30), (backends[0], 1), *((backend, 1 << 16 | 1) for backend in backends)):
        monkeypatch.setattr(backend, "kept_bytes", size)
        assert prove(backend, case) == expected
    assert set(folded) >= {1, (1 << 16) // (512 * PARAMS.ell)}


@card_only
def test_what_comes_back_is_small(every_kind: dict[str, Case]) -> None:
    """Round values, small tables, opened columns, trees of digests: nothing of the size of the witness or of a codeword."""
    case = every_kind["layer"]
    found = card.watched(lambda: prove(device(256, 32), case))
    n, rows = PARAMS.n, len(case.shape.witness_layout(PARAMS).rows)
    assert found["most copy back"] <= max(32 * n, 8 * PARAMS.queries * (rows + 6)), "leaves of a tree, or the columns of one opening"
    assert launches(found)
