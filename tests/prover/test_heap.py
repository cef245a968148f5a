"""The heap of a process with the CPU backend (prover/kernels/memory.h): huge pages for addresses that cost nothing, and only for these."""

import os
import platform
import resource
import subprocess
import sys
from pathlib import Path

import pytest

MODE = Path("/proc/sys/vm/overcommit_memory")
HALF = os.sysconf("SC_PHYS_PAGES") // 2 * os.sysconf("SC_PAGE_SIZE")
PROGRAM = """
import os, resource, sys
if len(sys.argv) > 1:
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
from prover.backend.cpu import CpuBackend
from prover.kernels import build
CpuBackend(), CpuBackend(build.levels()[-1])  # two libraries
child = os.fork()
if not child:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print(open("/proc/self/smaps").read())
"""

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or not MODE.exists() or MODE.read_text().strip() == "2"
    or resource.RLIM_INFINITY not in resource.getrlimit(resource.RLIMIT_AS),
    reason="the heap is marked with glibc, on Linux, where addresses are free",
)


def heap(*arguments: str) -> tuple[int, int, int]:
    """Bytes of the heap's addresses, of those marked for huge pages, of memory in use."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=True)
    total = marked = used = size = 0
    inside = False
    for line in done.stdout.splitlines():
        name, *words = line.split() or [""]
        if "-" in name and ":" not in name:
            inside = line.endswith("[heap]")
        elif inside and name == "Size:":
            size = 1024 * int(words[0])
            total += size
        elif inside and name == "Rss:":
            used += 1024 * int(words[0])
        elif inside and name == "VmFlags:" and "hg" in words:
            marked += size
    return total, marked, used


def test_half_of_the_memory_s_addresses_are_marked_once() -> None:
    total, marked, used = heap()
    assert HALF - (1 << 20) <= marked <= total < HALF + (1 << 28) and used < 1 << 29


def test_limited_address_space_is_left_alone() -> None:
    total, marked, _ = heap(str(HALF // 2))
    assert marked == 0 and total < 1 << 28
