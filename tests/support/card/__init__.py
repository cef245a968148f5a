"""A GPU that is not there: CuPy itself, on a CUDA driver and runtime of our own that compute on this machine's processor.

    CuPy ── NVRTC ── PTX ── ptx.py ── C++ ── g++ ── a library that runtime.cpp launches
      └─ cudaMalloc, cudaMemcpyAsync, cuLaunchKernel, … ── attach.cpp ── runtime.cpp

So what runs is what would run on a card, down to the instructions that NVIDIA's compiler makes of a kernel, and each access to
memory is checked (device.h). What it cannot show is in docs/decisions/0036-cupy-on-a-card-that-is-not-there.md. Once `cupy()` was
called a process has this card and no other; `cuda_module` does not find it unless it is visible. Used by tests and by
benchmarks/launches.py.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib
import importlib.util
import os
import platform
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from types import ModuleType

from prover.kernels import build

HERE = Path(__file__).parent
MULTIPROCESSORS, BYTES = 2, 1 << 33
KERNEL_FLAGS = ("-O1", "-fwrapv", "-fno-strict-aliasing")  # PTX wraps and does not care for types
_TRANSLATOR = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_char_p)


class NoCard(RuntimeError):
    """Neither here: CuPy is not installed, or this is no x86-64 Linux."""


def _folder() -> Path:
    """For libraries that were made: of everything they were made of, so a session of tests makes each once."""
    folder = Path(tempfile.gettempdir()) / f"verilora-card-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _compiled(texts: dict[str, str], flags: tuple[str, ...]) -> Path:
    """A library of C++ sources."""
    beside = "".join((HERE / name).read_text() for name in ("card.h", "device.h"))
    command = [*build.compiler(), "-std=c++17", "-fPIC", "-shared", "-w", *flags]
    digest = hashlib.sha256("\0".join([*texts.values(), beside, *command]).encode()).hexdigest()[:32]
    library = _folder() / f"{digest}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=_folder()) as work:
            for name, text in texts.items():
                Path(work, name).write_text(text)
            made = Path(work, "made.so")
            done = subprocess.run([*command, f"-I{HERE}", *(str(Path(work, name)) for name in texts), "-o", str(made), "-ldl"],
                                  capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"compiling for the card failed:\n{done.stderr[-4000:]}")
            os.replace(made, library)
    return library


def _translated(ptx: bytes) -> int | None:
    """For runtime.cpp: the path of a library of a module's kernels."""
    from tests.support.card.ptx import Translator

    try:
        path = str(_compiled({"kernels.cpp": Translator(ptx.decode()).source()}, (*KERNEL_FLAGS, *_tally))).encode()
    except Exception as error:  # noqa: BLE001 - there is no one above but C++
        print(f"card: {error}", file=sys.stderr)
        return None
    _kept.append(ctypes.create_string_buffer(path))
    return ctypes.addressof(_kept[-1])


_tally: list[str] = []
_kept: list[ctypes.Array[ctypes.c_char]] = []
_translator = _TRANSLATOR(_translated)


@functools.cache
def _card() -> ctypes.CDLL:
    """Our driver, in place of NVIDIA's in this process."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64") or importlib.util.find_spec("cupy") is None:
        raise NoCard("needs CuPy, on x86-64 Linux")
    card = ctypes.CDLL(str(_compiled(
        {name: (HERE / name).read_text() for name in ("runtime.cpp", "attach.cpp")},
        ("-O2", "-Wl,-soname,libcuda.so.1", "-static-libstdc++", "-static-libgcc"))))  # the name under which CuPy looks for a driver
    card.card_set.argtypes = [ctypes.c_uint64, ctypes.c_int, ctypes.c_int]
    card.card_fail_after.argtypes = [ctypes.c_uint64]
    card.card_counts.argtypes, card.card_counts.restype = [ctypes.c_char_p, ctypes.c_uint64], ctypes.c_uint64
    card.card_translator(_translator)
    for name in ("cupy_backends.cuda.api.runtime", "cupy.cuda.cub", "cupy.cuda.thrust"):
        path = str(importlib.import_module(name).__file__)
        if card.card_attach(ctypes.c_void_p(ctypes.CDLL(path)._handle), ctypes.c_void_p(card._handle), path.encode()) < 1:
            raise RuntimeError(f"{name} has no copy of NVIDIA's runtime")
    for kind in ("routine", "reduction"):  # CuPy's own kernels in place of CUB's, which are there for NVIDIA's processors alone
        getattr(importlib.import_module("cupy._core"), f"set_{kind}_accelerators")([])
    compiler = importlib.import_module("cupy.cuda.compiler")
    compiler._use_ptx = True  # as CUPY_COMPILE_WITH_PTX=1, which is read when CuPy is imported, and that may have been before
    compiler._set_kernel_cache_backend(compiler._DiskKernelCacheBackend(str(_folder() / "cupy")))
    return card


class Mode(IntEnum):
    """What a card does with a launch: all of it; nothing; a few blocks, chosen by lot, whose instructions are counted for all."""

    BUSY = 0
    IDLE = 1
    SAMPLED = 2


def cupy(multiprocessors: int = MULTIPROCESSORS, memory: int = BYTES, visible: bool = False, mode: Mode = Mode.BUSY) -> ModuleType:
    """CuPy on a card with so many multiprocessors and bytes; a visible one is found by `cuda_module`. Kernels count instructions if they
    are first used on a sampled card."""
    _card().card_set(memory, multiprocessors, mode)
    _tally.extend(["-DCARD_TALLY"] * (mode is Mode.SAMPLED and not _tally))
    module = importlib.import_module("cupy")
    module.cuda.runtime.getDeviceCount = lambda: int(visible)  # CuPy itself has it without Python
    return module


def mend() -> None:
    """After a fault: forget it, and what was not done."""
    _card().card_mend()


def fail_after(launches: int) -> None:
    """The launch after so many ends in a fault."""
    _card().card_fail_after(launches)


def forget() -> None:
    """Start counting anew."""
    _card().card_forget_counts()


def counts() -> Counter[str]:
    """What was asked for since: "launch NAME", "wait", "copy there", "queued there" (out of pinned memory), "copy back", "copy within",
    "set", "malloc", "free", "pin", "event", "bytes …" and "most …", the largest one's, of these; "instructions NAME" and "moved NAME", PTX
    and bytes of global memory, where kernels count them."""
    size = _card().card_counts(None, 0)
    text = ctypes.create_string_buffer(size)
    _card().card_counts(text, size)
    lines = (line.split(" ", 1) for line in text.value.decode().splitlines())
    return Counter({what: int(number) for number, what in lines})


def watched(work: Callable[[], object]) -> Counter[str]:
    """What some work asked for."""
    forget()
    work()
    return counts()
