"""Builds the CPU kernels (kernels.cpp) into shared libraries beside the source and loads the one for this machine.

`python -m prover.kernels.build` builds every level of the host's architecture (x86-64-v2, -v3, -v4, -v4-ifma, or the native one
elsewhere); `library()` loads the highest that the processor has, building it first if it is absent or older than the
source. A lock file keeps concurrent processes from building twice; a finished library appears by one rename.

Environment: CXX names the compiler (default g++, c++, clang++, then ziglang's); VERILORA_KERNEL_LEVEL picks a level.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).resolve().parent
_FLAGS = ["-std=c++17", "-O3", "-fPIC", "-shared", "-fvisibility=hidden", "-pthread", "-Wall", "-Wextra"]
_QUIET = ["-Wno-maybe-uninitialized", "-Wno-uninitialized"]  # GCC 12 warns inside its own AVX-512 header

# processor flags that each level adds (x86-64 psABI; -ifma: AVX-512 with 52-bit multiply-add, since Ice Lake and Zen 4)
_V4 = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx2", "bmi1", "bmi2", "fma"}
_LEVELS = {
    "x86-64-v4-ifma": _V4 | {"avx512ifma"},
    "x86-64-v4": _V4,
    "x86-64-v3": {"avx2", "bmi1", "bmi2", "fma", "f16c", "movbe"},
    "x86-64-v2": {"sse4_1", "sse4_2", "ssse3", "popcnt", "cx16"},
}


def levels() -> list[str]:
    """Levels that the host's architecture knows, highest first."""
    return list(_LEVELS) if platform.machine() in ("x86_64", "AMD64") else ["native"]


def host_level() -> str:
    """The highest level that this processor has (VERILORA_KERNEL_LEVEL overrides)."""
    wanted = os.environ.get("VERILORA_KERNEL_LEVEL")
    if wanted:
        if wanted not in levels():
            raise ValueError(f"VERILORA_KERNEL_LEVEL={wanted}, choose one of {', '.join(levels())}")
        return wanted
    if levels() == ["native"]:
        return "native"
    flags = _cpu_flags()
    for level, needed in _LEVELS.items():
        if needed <= flags:
            return level
    raise RuntimeError("this processor lacks x86-64-v2 (SSE4.2); use the reference backend")


def _cpu_flags() -> set[str]:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return set(line.split(":", 1)[1].split())
    except OSError:
        pass
    return set(_LEVELS["x86-64-v2"])  # unknown system: what every 64-bit x86 of the last decade has


def compiler() -> list[str]:
    """The C++ compiler command."""
    named = os.environ.get("CXX")
    if named:
        return named.split()
    for name in ("g++", "c++", "clang++"):
        if shutil.which(name):
            return [name]
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "c++"]
    raise RuntimeError("no C++ compiler: install g++ or clang++, or `pip install ziglang`, or set CXX")


def command(level: str, output: Path, cxx: list[str] | None = None) -> list[str]:
    """The compile command of one level."""
    cxx = cxx or compiler()
    base = level.removesuffix("-ifma")
    arch = base.replace("-", "_") if "ziglang" in cxx else base  # zig has its own spelling
    more = ["-mavx512ifma"] if base != level else []
    return [*cxx, *_FLAGS, *_QUIET, f"-march={arch}", *more, str(SOURCE / "kernels.cpp"), "-o", str(output)]


def build(level: str) -> Path:
    """The library of that level, compiled if it is missing or older than any source file."""
    target = SOURCE / f"kernels-{platform.machine()}-{level}.so"
    if _fresh(target):
        return target
    with open(SOURCE / "build.lock.so", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _fresh(target):
            return target
        partial = target.with_name(f"{target.stem}.{os.getpid()}.partial.so")
        try:
            done = subprocess.run(command(level, partial), capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"building the {level} kernels failed:\n{done.stderr[-4000:]}")
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
    return target


def _fresh(target: Path) -> bool:
    if not target.exists():
        return False
    newest = max(f.stat().st_mtime for f in SOURCE.iterdir() if f.suffix in (".h", ".cpp"))
    return target.stat().st_mtime >= newest


@functools.cache
def library(level: str | None = None) -> ctypes.CDLL:
    """The loaded kernels of a level (default: this machine's)."""
    return ctypes.CDLL(str(build(level or host_level())))


if __name__ == "__main__":
    for each in levels():
        print(build(each).name)
    print(f"this machine uses {host_level()}")
