"""The kernel source compiled by NVRTC, which needs no device: PTX, machine code and ptxas's remarks."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from prover.backend.device import THREADS
from prover.kernels.source import single_source


@dataclass(frozen=True)
class Compiled:
    ptx: str
    cubin: bytes
    log: str


def nvrtc() -> ctypes.CDLL:
    spec = importlib.util.find_spec("nvidia")
    roots = list(spec.submodule_search_locations or []) if spec else []
    found = [lib for root in roots for lib in sorted(Path(root).rglob("libnvrtc.so.1*"))]
    if not found:
        pytest.skip("nvidia-cuda-nvrtc is not installed")
    for builtins in found[0].parent.glob("libnvrtc-builtins.so.1*"):
        ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)  # looked up by name only, so it has to be there already
    return ctypes.CDLL(str(found[0]))


@functools.cache
def compile_for(arch: str) -> Compiled:
    """For one architecture, as prover/backend/device.py has it compiled."""
    lib, program = nvrtc(), ctypes.c_void_p()
    assert lib.nvrtcCreateProgram(ctypes.byref(program), single_source().encode(), b"kernels.cu", 0, None, None) == 0
    options = [f"--gpu-architecture={arch}", "--std=c++17", f"-DVL_THREADS={THREADS}", "--ptxas-options=-v"]
    status = lib.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*[o.encode() for o in options]))

    def text(size_of: Callable[..., int], get: Callable[..., int]) -> bytes:
        size = ctypes.c_size_t()
        size_of(program, ctypes.byref(size))
        out = ctypes.create_string_buffer(size.value)
        get(program, out)
        return out.raw

    log = text(lib.nvrtcGetProgramLogSize, lib.nvrtcGetProgramLog).rstrip(b"\0").decode()
    assert status == 0, log
    ptx, cubin = text(lib.nvrtcGetPTXSize, lib.nvrtcGetPTX), text(lib.nvrtcGetCUBINSize, lib.nvrtcGetCUBIN)
    lib.nvrtcDestroyProgram(ctypes.byref(program))
    return Compiled(ptx.rstrip(b"\0").decode(), cubin, log)
