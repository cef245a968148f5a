"""How much memory this process may use, and which codewords are kept in it.

    a process's memory = memory of the machine, or of the GPU ÷ processes that share it (VERILORA_SHARES, docs/decisions/0033)

A commitment's codeword is four times its rows. One of at most an eighth of the memory is kept until the commitment is opened;
encoding a larger one again costs less than the room that it takes from everything else (docs/decisions/0023). Read by the backends,
by prover/cost and by the planner, which has to know what a prover will do.
"""

import ctypes
import os
from collections.abc import Mapping
from pathlib import PurePosixPath

SHARES = "VERILORA_SHARES"
# where the system tells the limits of control groups, of version 2 and of version 1
_V2, _V1 = ("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")


def shares(environment: Mapping[str, str] = os.environ) -> int:
    """Among how many processes the machine's memory is divided, or the GPU's: each has an equal share. Set by `verilora worker
    --processes`."""
    text = environment.get(SHARES, "1")
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{SHARES}: {text!r} is not valid; valid is an integer of at least 1")
    return int(text)


def divided(processes: int) -> dict[str, str]:
    """The environment of each of so many processes with equal shares of this machine: memory, and cores for kernels and for torch."""
    threads = str(max(1, len(os.sched_getaffinity(0)) // processes))
    return {SHARES: str(processes), "VERILORA_THREADS": threads, "OMP_NUM_THREADS": threads}


def host_memory() -> int:
    """This process's share of this machine's bytes, or of its control group's if that has fewer, or one above it."""
    limits = [int(text) for file in _limits() if (text := text_of(file).strip()).isdigit()]
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *limits]) // shares()


def _limits() -> list[str]:
    """Files with the limits of this process's control groups: a service's is its own, a container's the top one that it sees."""
    found = {(*_V2, "/"), (*_V1, "/")}
    for line in text_of("/proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        kind = _V1 if "memory" in controllers.split(",") else _V2 if number == "0" else None
        if kind is not None:
            found |= {(*kind, str(above)) for above in (PurePosixPath(path), *PurePosixPath(path).parents)}
    return [f"{root}{path.rstrip('/')}/{file}" for root, file, path in sorted(found)]


def host_resident() -> int:
    """Bytes of this process in memory; 0 where the system does not say."""
    pages = text_of("/proc/self/statm").split()
    return int(pages[1]) * os.sysconf("SC_PAGE_SIZE") if pages else 0


def give_back() -> None:
    """Let the system have what the heap holds free, where it can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def kept_bytes(memory: int) -> int:
    """The largest codeword that is kept by a process that may use so many bytes."""
    return memory // 8


def text_of(file: str) -> str:
    """A file's text, empty where there is none."""
    try:
        with open(file) as held:
            return held.read()
    except OSError:
        return ""
