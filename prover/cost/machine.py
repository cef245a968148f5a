"""How much memory there is to plan for, and how much was used at most.

    cpu, reference   this process's share of the machine's memory or of its control group's limit; its own peak (Linux: VmHWM, reset)
    cuda             its share of the device's memory; what is no longer free on the device, since pools keep what they had, or, where
                     other processes share it, what its own pools hold

The device is asked through CuPy, which every prover on it has; torch may be one without CUDA, and is counted where it works there too
(prover/backend/device_memory.py). Called by tasks/ and benchmarks/.
"""

import importlib
import resource
from pathlib import Path
from types import ModuleType

from prover.backend.device_memory import torch_there
from prover.backend.memory import host_memory, host_resident, shares, text_of


def memory_bytes(backend: str) -> int:
    """What this process may use of the memory that this backend computes in."""
    if backend == "cuda":
        return int(_cupy().cuda.Device().mem_info[1]) // shares()
    return host_memory()


def peak_bytes(backend: str) -> int:
    """The most that was in use since `reset_peak`, the program itself included."""
    if backend == "cuda" and shares() > 1:
        torch = torch_there()
        return int(_cupy().get_default_memory_pool().total_bytes() + (torch.cuda.memory_reserved() if torch else 0))
    if backend == "cuda":
        free, total = _cupy().cuda.Device().mem_info
        return int(total - free)
    lines = [line for line in text_of("/proc/self/status").splitlines() if line.startswith("VmHWM")]
    return int(lines[0].split()[1]) * 1024 if lines else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def reset_peak(backend: str) -> None:
    """Forget the peak so far, where the system can; give unused device memory back."""
    if backend == "cuda":
        if (torch := torch_there()) is not None:
            torch.cuda.empty_cache()
        _cupy().get_default_memory_pool().free_all_blocks()
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # not Linux: the peak stays that of the whole process


def resident_bytes(backend: str) -> int:
    """In use now: before a task, what the program itself takes."""
    if backend == "cuda":
        return peak_bytes(backend)
    return host_resident() or peak_bytes(backend)


def _cupy() -> ModuleType:
    """Whoever has a CUDA backend has it."""
    return importlib.import_module("cupy")


def describe(count: float) -> str:
    """1.5 GB."""
    for unit, name in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count:.0f} B"
