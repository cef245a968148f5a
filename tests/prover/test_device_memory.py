"""Processes that share a machine or a GPU: each plans, keeps and allocates within its share; proofs in a share are the same proofs."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from protocol.field import GOLDILOCKS
from protocol.statement import task_list
from prover.backend import select
from prover.backend.cuda import CudaBackend
from prover.backend.device_memory import DeviceMemory
from prover.backend.memory import SHARES, host_memory, shares
from prover.backend.reference import ReferenceBackend
from prover.cost.machine import memory_bytes, peak_bytes, reset_peak, resident_bytes
from tests.prover.test_cuda_proofs import prove
from tests.support.device import card_only, fresh_pool, module
from tests.support.stage import Case, Stage
from tests.toy import ODD, toy

UNIT = 1 << 20
TOTAL = 64 * UNIT


class Torch:
    """torch.cuda, as far as this process's memory goes."""

    def __init__(self, live: int, kept: int) -> None:
        self.live, self.kept, self.fraction, self.calls = live, kept, 1.0, 0
        self.cuda = self

    def is_initialized(self) -> bool:
        return True

    def memory_allocated(self) -> int:
        return self.live

    def memory_reserved(self) -> int:
        return self.live + self.kept

    def empty_cache(self) -> None:
        self.kept, self.calls = 0, self.calls + 1

    def set_per_process_memory_fraction(self, fraction: float) -> None:
        self.fraction = fraction


@pytest.fixture
def pool() -> Iterator[Any]:
    with fresh_pool() as made:
        yield made


def memory(monkeypatch: pytest.MonkeyPatch, processes: int, torch: Torch | None) -> DeviceMemory:
    monkeypatch.setenv(SHARES, str(processes))
    monkeypatch.setitem(sys.modules, "torch", torch or SimpleNamespace(cuda=SimpleNamespace(is_initialized=lambda: False)))
    return DeviceMemory(module(memory=TOTAL))


def kept(pool: Any, size: int) -> None:
    if size:
        pool.malloc(size)  # and dropped


@card_only
@pytest.mark.parametrize(("processes", "live", "unused", "torch_unused", "expected"), [
    (1, 20, 12, 0, False),  # half of it
    (1, 20, 13, 0, True),
    (1, 20, 0, 13, True),
    (1, 60, 3, 1, False),  # not worth it
    (4, 2, 1, 0, False),
    (4, 2, 1, 1, True),
])
def test_what_a_library_keeps_goes_back_once_others_may_need_it(
    monkeypatch: pytest.MonkeyPatch, pool: Any, processes: int, live: int, unused: int, torch_unused: int, expected: bool,
) -> None:
    """Units of memory, 64 in all."""
    torch = Torch(0, torch_unused * UNIT)
    made = memory(monkeypatch, processes, torch)
    torch.kept, torch.calls = torch_unused * UNIT, 0
    held = pool.malloc(live * UNIT)
    kept(pool, unused * UNIT)
    made.release()
    assert (torch.calls, pool.free_bytes()) == ((1, 0) if expected else (0, unused * UNIT))
    assert pool.used_bytes() == live * UNIT == held.mem.size


@card_only
def test_what_one_library_holds_is_not_the_others(monkeypatch: pytest.MonkeyPatch, pool: Any) -> None:
    torch = Torch(3 * UNIT, 0)
    made = memory(monkeypatch, 4, torch)
    assert made.size == 16 * UNIT and pool.get_limit() == 13 * UNIT and torch.fraction == 16 / 64
    held = pool.malloc(6 * UNIT)
    torch.live = 20 * UNIT  # more than its share
    made.release()
    assert pool.get_limit() == 1 and torch.fraction == 10 / 64  # 0 would be no limit
    alone = memory(monkeypatch, 1, torch)
    pool.set_limit(size=0)
    torch.fraction = 1.0
    alone.release()
    assert pool.get_limit() == 0 and torch.fraction == 1.0 and held.mem.size == 6 * UNIT


@card_only
def test_unused_blocks_never_stand_in_the_way(monkeypatch: pytest.MonkeyPatch, pool: Any) -> None:
    """The library's limit counts them; torch's leave as well, and what torch held is this library's then."""
    torch = Torch(2 * UNIT, 9 * UNIT)
    made = memory(monkeypatch, 4, torch)
    torch.kept, torch.calls = 9 * UNIT, 0
    kept(pool, 8 * UNIT)
    torch.live = UNIT
    held = made.allocate(15 * UNIT)
    assert (torch.calls, torch.kept, pool.free_bytes(), pool.get_limit()) == (1, 0, 0, held.mem.size)
    with pytest.raises(MemoryError, match="allocated so far"):
        made.allocate(UNIT)


@card_only
@pytest.mark.parametrize("torch", [None, Torch(2 * UNIT, UNIT)])  # one without CUDA, one that works on the device too
def test_how_much_a_device_has_and_what_is_in_use(monkeypatch: pytest.MonkeyPatch, pool: Any, torch: Torch | None) -> None:
    """CuPy is asked, whatever torch was installed."""
    made = memory(monkeypatch, 1, torch)
    monkeypatch.setitem(sys.modules, "cupy", made.xp)
    held = pool.malloc(5 * UNIT)
    assert (memory_bytes("cuda"), peak_bytes("cuda"), resident_bytes("cuda")) == (TOTAL, 5 * UNIT, 5 * UNIT)
    monkeypatch.setenv(SHARES, "4")
    kept(pool, UNIT)
    theirs = torch.memory_reserved() if torch else 0
    assert (memory_bytes("cuda"), peak_bytes("cuda")) == (TOTAL // 4, 6 * UNIT + theirs)
    reset_peak("cuda")
    assert peak_bytes("cuda") == held.mem.size + (torch.live if torch else 0)


@pytest.fixture(scope="module")
def head() -> Case:
    made = Stage(toy(sizes=ODD, layers=1, steps=2, batch_size=1, sequence_length=4, examples=2, target_modules=("o_proj",)))
    task = next(t for t in task_list(made.toy.manifest) if t.kind == "head")
    return made.case(task.kind, task.window, task.layer, task.part)


@card_only
def test_a_proof_in_a_share_of_a_device(monkeypatch: pytest.MonkeyPatch, pool: Any, head: Case) -> None:
    """Nothing but its own size matters: a share in which the proof fits gives the same bytes, and a smaller one is a MemoryError."""
    monkeypatch.setattr("prover.backend.device_memory.torch_there", lambda: None)
    most, allocate = [0], DeviceMemory.allocate

    def watched(self: DeviceMemory, size: int) -> Any:
        made = allocate(self, size)
        most[0] = max(most[0], pool.used_bytes())
        return made

    def proof(size: int) -> bytes:
        made = CudaBackend(module(memory=3 * size), 256, 32)
        assert made.memory == size and made.kept_bytes == size // 8
        return prove(made, head)

    monkeypatch.setattr(DeviceMemory, "allocate", watched)
    monkeypatch.setenv(SHARES, "3")
    expected = prove(select("cpu"), head)
    assert proof(1 << 30) == expected
    needed, most[0] = most[0], 0
    assert proof(2 * needed) == expected and most[0] <= 2 * needed
    gc.collect()
    with pytest.raises(MemoryError, match="Out of memory"):
        proof(needed // 2)


def test_a_share_of_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SHARES, raising=False)
    whole = host_memory()
    monkeypatch.setenv(SHARES, "5")
    assert shares() == 5 and host_memory() == memory_bytes("cpu") == whole // 5
    for made in (type(select("cpu"))(), ReferenceBackend(GOLDILOCKS)):
        assert (made.memory, made.kept_bytes) == (whole // 5, whole // 40)
    returned: list[int] = []
    monkeypatch.setattr("prover.backend.host.give_back", lambda: returned.append(1))
    for resident, expected in ((whole // 10, 0), (whole // 10 + 8, 1)):
        monkeypatch.setattr("prover.backend.host.host_resident", lambda resident=resident: resident)
        type(select("cpu"))().release()
        assert len(returned) == expected


@pytest.mark.parametrize(("group", "files", "expected"), [
    ("0::/system.slice/provers.service\n", {"/sys/fs/cgroup/system.slice/provers.service/memory.max": "3000000\n"}, 3_000_000),
    ("0::/a.slice/b.service\n", {"/sys/fs/cgroup/a.slice/memory.max": "2000000", "/sys/fs/cgroup/a.slice/b.service/memory.max": "max"},
     2_000_000),
    ("5:cpu:/\n4:memory,x:/a/b\n0::/\n", {"/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes": "1000000"}, 1_000_000),
    ("0::/../host/path\n", {"/sys/fs/cgroup/memory.max": "4000000"}, 4_000_000),  # a container whose group is called otherwise outside
    ("", {"/sys/fs/cgroup/memory/memory.limit_in_bytes": "5000000"}, 5_000_000),
])
def test_a_control_groups_limit(monkeypatch: pytest.MonkeyPatch, group: str, files: dict[str, str], expected: int) -> None:
    """The service's own, one above it, or the only one that a container sees."""
    monkeypatch.setenv(SHARES, "2")
    monkeypatch.setattr("prover.backend.memory.text_of", lambda file: (files | {"/proc/self/cgroup": group}).get(file, ""))
    assert host_memory() == expected // 2


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", ""])
def test_what_is_no_share(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(SHARES, text)
    with pytest.raises(ValueError, match="VERILORA_SHARES: .* valid is an integer of at least 1"):
        shares()
    assert shares({}) == 1 and shares(dict[str, Any]({SHARES: "3"}) | {}) == 3 and SHARES in os.environ
