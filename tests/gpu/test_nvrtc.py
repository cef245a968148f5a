"""The kernel source compiles for CUDA (NVRTC needs no device): every kernel is there, no register spills, blocks fit an SM."""

from __future__ import annotations

import re

import pytest

from prover.backend.device import THREADS
from prover.kernels import build
from prover.kernels.source import single_source
from tests.support.nvrtc import compile_for

ONLY_ON_CPU = {
    "vl_batch_rounds", "vl_encode", "vl_encode_cosets", "vl_eq_suffixes", "vl_fold_axis_f", "vl_fold_axis_int", "vl_fold_axis_k",
    "vl_fold_last_int", "vl_fraction_layers", "vl_fraction_rounds", "vl_hash_levels", "vl_keep_memory", "vl_lanes", "vl_narrow", "vl_outer",
    "vl_powers", "vl_product_rounds", "vl_sumcheck_end", "vl_transform",
}
REGISTERS = 65536 // (3 * THREADS)  # of an SM's, so that at least three blocks run on one
SHARED = 48 << 10  # bytes a block may have without asking


def source_kernels() -> set[str]:
    text = "".join(f.read_text() for f in build.SOURCE.iterdir() if f.suffix in (".h", ".cpp"))
    code = re.sub(r"//.*", "", text)
    return set(re.findall(r"\b(vl_\w+)", code)) - ONLY_ON_CPU - set(re.findall(r"VL_HOST_MAP\((vl_\w+)", code))


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_every_kernel_is_in_the_module(arch: str) -> None:
    made = compile_for(arch)
    assert "error" not in made.log
    assert set(re.findall(r"\.entry (vl_\w+)", made.ptx)) == source_kernels()


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_registers_suffice(arch: str) -> None:
    """What ptxas says of each kernel: no local memory, and at least three blocks fit a multiprocessor."""
    parts = re.split(r"Compiling entry function '(vl_\w+)'", compile_for(arch).log)
    assert set(parts[1::2]) == source_kernels()
    for name, text in zip(parts[1::2], parts[2::2], strict=True):
        stack, stores, loads = map(int, re.search(  # type: ignore[union-attr]
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", text).groups())
        registers = int(re.search(r"Used (\d+) registers", text)[1])  # type: ignore[index]
        shared = re.search(r"(\d+) bytes smem", text)
        assert (stack, stores, loads) == (0, 0, 0), name
        assert registers <= REGISTERS, (name, registers)
        assert shared is None or int(shared[1]) <= SHARED, name


def test_a_header_is_pasted_once() -> None:
    source = single_source()
    assert "#include \"" not in source and source.count("struct KMul {") == 1
    assert source.isascii(), "CuPy writes it to a file in whatever encoding the locale has"
