"""The kernel source compiles for CUDA (NVRTC needs no device): every kernel of the CPU library is there, nothing spills."""

from __future__ import annotations

import ctypes
import importlib.util
import re
from pathlib import Path

import pytest

from prover.kernels import build

ONLY_ON_CPU = {"vl_encode", "vl_keep_memory", "vl_product_rounds"}


def nvrtc() -> ctypes.CDLL:
    spec = importlib.util.find_spec("nvidia")
    roots = list(spec.submodule_search_locations or []) if spec else []
    found = [lib for root in roots for lib in sorted(Path(root).rglob("libnvrtc.so.1*"))]
    if not found:
        pytest.skip("nvidia-cuda-nvrtc is not installed")
    for builtins in found[0].parent.glob("libnvrtc-builtins.so.1*"):
        ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)  # looked up by name only, so it has to be there already
    return ctypes.CDLL(str(found[0]))


def compile_for(arch: str) -> tuple[str, str]:
    """PTX and log of kernels.cpp for one architecture."""
    lib = nvrtc()
    headers = sorted(build.SOURCE.glob("*.h"))
    program = ctypes.c_void_p()
    texts = (ctypes.c_char_p * len(headers))(*[h.read_bytes() for h in headers])
    names = (ctypes.c_char_p * len(headers))(*[h.name.encode() for h in headers])
    source = (build.SOURCE / "kernels.cpp").read_bytes()
    assert lib.nvrtcCreateProgram(ctypes.byref(program), source, b"kernels.cu", len(headers), texts, names) == 0
    options = [f"--gpu-architecture={arch}".encode(), b"--std=c++17", b"--ptxas-options=-v", b"--ptxas-options=-warn-spills"]
    status = lib.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    size = ctypes.c_size_t()
    lib.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    lib.nvrtcGetProgramLog(program, log)
    assert status == 0, log.value.decode()
    lib.nvrtcGetPTXSize(program, ctypes.byref(size))
    ptx = ctypes.create_string_buffer(size.value)
    lib.nvrtcGetPTX(program, ptx)
    lib.nvrtcDestroyProgram(ctypes.byref(program))
    return ptx.value.decode(), log.value.decode()


def source_kernels() -> set[str]:
    text = "".join(f.read_text() for f in build.SOURCE.iterdir() if f.suffix in (".h", ".cpp"))
    return set(re.findall(r"\b(vl_\w+)", text)) - ONLY_ON_CPU


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_source_compiles(arch: str) -> None:
    ptx, log = compile_for(arch)
    assert "error" not in log
    assert "spill" not in log.replace("0 bytes spill stores", "").replace("0 bytes spill loads", "")
    assert set(re.findall(r"\.entry (vl_\w+)", ptx)) == source_kernels()
