"""How much memory there is, and which codewords are kept in it.

A commitment's codeword is four times its rows. One of at most an eighth of the memory is kept until the commitment is opened;
encoding a larger one again costs less than the room that it takes from everything else (docs/decisions/0023). Read by the backends,
by prover/cost and by the planner, which has to know what a prover will do.
"""

import ctypes
import os

_GROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def host_memory() -> int:
    """Bytes of this machine, or of this process's control group if that has fewer."""
    limits = [int(text) for file in _GROUPS if (text := text_of(file).strip()).isdigit()]
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *limits])


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
    """The largest codeword that is kept on a device with so many bytes."""
    return memory // 8


def text_of(file: str) -> str:
    """A file's text, empty where there is none."""
    try:
        with open(file) as held:
            return held.read()
    except OSError:
        return ""
