"""What this process may hold of a GPU's memory, of which two libraries allocate: CuPy's pool here, torch's in the executor.

    size = device's memory ÷ processes that share it (memory.py)      live arrays of CuPy + live arrays of torch ≤ size

Each library keeps what was freed, and neither finds what the other keeps; nor does another process. A process that has the device for
itself gives unused blocks back once it holds more than half of it; before, both are quicker with them. One of several gives them back as
soon as they are a sixteenth of its share, and each library's limit is what the other one's live arrays leave of it: a proof that needs more
than its share fails, and not its neighbour's. CuPy's limit counts unused blocks and does not free them before it raises, so an
allocation that fails is tried again after both libraries have given back what they do not use.

What a context takes (kernels, the library's own memory) is in nobody's share: the planner leaves a tenth (tasks/plan.py). Called by
device.py and, for what is held, by prover/cost/machine.py.
"""

from __future__ import annotations

import sys
from typing import Any

from prover.backend.memory import shares


class DeviceMemory:
    """`xp` is the module cupy; `size` is in bytes."""

    def __init__(self, xp: Any) -> None:
        self.xp, self.processes = xp, shares()
        self.total = int(xp.cuda.Device().mem_info[1])
        self.size = self.total // self.processes
        self.pool = xp.get_default_memory_pool()
        xp.cuda.set_allocator(self.allocate)
        self.release()

    def allocate(self, size: int) -> Any:
        """CuPy's allocator. MemoryError if a process's share, or the device, does not have so many bytes left."""
        try:
            return self.pool.malloc(size)
        except MemoryError:
            self._give_back()
            self._divide()
        return self.pool.malloc(size)

    def release(self) -> None:
        """Between phases whose arrays differ."""
        held, live = self._held(), self._live()
        crowded = self.processes > 1 or held > self.size // 2
        if crowded and held - live > self.size // 16:
            self._give_back()
        self._divide()

    def _give_back(self) -> None:
        if (torch := torch_there()) is not None:
            torch.cuda.empty_cache()
        self.pool.free_all_blocks()

    def _divide(self) -> None:
        """What is live of one library bounds the other."""
        if self.processes == 1:
            return
        torch, there = torch_there(), 0
        if torch is not None:
            there = torch.cuda.memory_allocated()
            torch.cuda.set_per_process_memory_fraction(max(0, self.size - self.pool.used_bytes()) / self.total)
        self.pool.set_limit(size=max(1, self.size - there))  # 0 would be no limit

    def _held(self) -> int:
        torch = torch_there()
        return int(self.pool.total_bytes() + (torch.cuda.memory_reserved() if torch else 0))

    def _live(self) -> int:
        torch = torch_there()
        return int(self.pool.used_bytes() + (torch.cuda.memory_allocated() if torch else 0))


def torch_there() -> Any:
    """The library if it works on the device already; None if it does not, or was installed without CUDA."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and torch.cuda.is_initialized() else None
