"""The card that is not there (tests/support/card): late, strict, and its instructions mean what NVIDIA's manual says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from prover.backend.device import half_planes, planes
from tests.prover.test_kernels import elements, rng, same  # noqa: F401
from tests.support import card
from tests.support.card.ptx import Translator
from tests.support.card.ptx_text import UnknownPtx
from tests.support.device import card_only, device, module

pytestmark = card_only
HEAD = ".version 9.0\n.target sm_90\n.address_size 64\n"


@pytest.fixture
def cupy() -> Iterator[Any]:
    """Every array's memory an allocation of its own, so that its edges are seen; a fault is forgotten afterwards."""
    found = module()
    before = found.cuda.get_allocator()
    found.cuda.set_allocator(found.cuda.memory._malloc)
    yield found
    card.mend()
    found.cuda.set_allocator(before)


def launch(cupy: Any, body: str, grid: int, block: int, *arguments: Any) -> None:
    source = f'extern "C" __global__ void tried({body[: body.index(")")]}) {{ {body[body.index(")") + 1 :]} }}'
    cupy.RawKernel(source, "tried")((grid,), (block,), arguments)


def test_work_is_done_when_the_host_waits(rng: np.random.Generator) -> None:  # noqa: F811
    """A kernel has written nothing before, and reads what pinned memory holds by then."""
    backend, a = device(0, 32), elements(rng, 2, 64)
    there, out = backend.to_device(a), backend._pinned(2, 32)
    before = out.copy()
    backend._staging[...] = 0
    backend._call("vl_fold_top", 1, 32, *half_planes(there), *planes(out), 1, 0)
    same(out, before)
    backend._wait()
    same(out, np.zeros_like(out))


def test_copies_back_are_late_too(cupy: Any) -> None:
    a = cupy.asarray(np.arange(10))
    out = np.frombuffer(cupy.cuda.alloc_pinned_memory(80), dtype=np.int64, count=10)
    a.get(out=out, blocking=False)
    assert not np.array_equal(out, np.arange(10))
    cupy.cuda.get_current_stream().synchronize()
    assert np.array_equal(out, np.arange(10))


def test_fresh_memory_holds_garbage(cupy: Any) -> None:
    assert set(cupy.empty(1000, dtype=np.uint8).get()) == {0xA5}


@pytest.mark.parametrize(("what", "body", "words"), [
    ("a read behind an array", "long long* a, long long* b) b[0] = a[threadIdx.x + 1];", "outside of every allocation"),
    ("a write behind it", "long long* a, long long* b) a[threadIdx.x + 1] = 1;", "outside of every allocation"),
    ("a write before it", "long long* a, long long* b) a[-1] = 1;", "outside of every allocation"),
    ("half a word behind it", "long long* a, long long* b) *(long long*)((char*)a + 8 * 32 - 4) = 1;", "misaligned"),
    ("the host's memory", "long long* a, long long* b) b[0] = *(long long*)(a[0] + 64);", "neither the device's nor pinned"),
    ("a barrier in a branch", "long long* a, long long* b) if (threadIdx.x < 5) __syncthreads(); a[threadIdx.x] = 1;", "not all threads"),
    ("a barrier that one does not reach", "long long* a, long long* b) if (!threadIdx.x) return; __syncthreads();", "barrier"),
])
def test_faults_are_found(cupy: Any, capfd: pytest.CaptureFixture[str], what: str, body: str, words: str) -> None:
    """And end the context, as on a card."""
    host = np.zeros(100, dtype=np.int64)
    a, b = cupy.full(32, host.ctypes.data), cupy.zeros(1, dtype=np.int64)
    cupy.cuda.get_current_stream().synchronize()
    launch(cupy, body, 1, 32, a, b)
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="IllegalAddress|LaunchFailure"):
        cupy.cuda.get_current_stream().synchronize()
    assert words in capfd.readouterr().err and not host.any()
    with pytest.raises(Exception, match="IllegalAddress|LaunchFailure"):
        cupy.zeros(3)
    card.mend()
    launch(cupy, "long long* a, long long* b) a[threadIdx.x] = 7;", 1, 32, a, b)
    assert set(a.get()) == {7}


def test_an_array_that_is_gone(cupy: Any, capfd: pytest.CaptureFixture[str]) -> None:
    a = cupy.zeros(32, dtype=np.int64)
    address = np.uint64(a.data.ptr)
    del a
    launch(cupy, "long long a) *(long long*)a = 1;", 1, 1, address)
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="IllegalAddress"):
        cupy.cuda.get_current_stream().synchronize()
    assert "outside of every allocation" in capfd.readouterr().err


def test_a_missing_barrier_shows(cupy: Any) -> None:
    """Threads run in an order of their own between barriers."""
    body = "long long* a) __shared__ long long part[64]; part[threadIdx.x] = threadIdx.x; BARRIER a[threadIdx.x] = part[63 - threadIdx.x];"
    expected, found = np.arange(64)[::-1], list[bool]()
    for barrier in ("__syncthreads();", ""):
        a = cupy.zeros(64, dtype=np.int64)
        launch(cupy, body.replace("BARRIER", barrier), 1, 64, a)
        found.append(bool(np.array_equal(a.get(), expected)))
    assert found == [True, False]


def test_launches_that_no_card_takes(cupy: Any) -> None:
    a = cupy.zeros(1, dtype=np.int64)
    for grid, block in ((1, 1025), (1, 2048), (1 << 31, 32)):
        with pytest.raises(cupy.cuda.driver.CUDADriverError, match="InvalidValue"):
            launch(cupy, "long long* a) a[0] = 1;", grid, block, a)


def test_memory_ends(cupy: Any) -> None:
    small = module(memory=1 << 20)
    held = small.empty(1 << 19, dtype=np.uint8)
    assert small.cuda.Device().mem_info == (1 << 19, 1 << 20)
    with pytest.raises(small.cuda.runtime.CUDARuntimeError, match="MemoryAllocation"):
        small.empty((1 << 19) + 1, dtype=np.uint8)
    assert held.nbytes == small.empty(1 << 19, dtype=np.uint8).nbytes
    module()


def test_addresses_are_freed_once(cupy: Any, capfd: pytest.CaptureFixture[str]) -> None:
    runtime = cupy.cuda.runtime
    at = runtime.malloc(100)
    runtime.free(at)
    with pytest.raises(runtime.CUDARuntimeError, match="InvalidValue"):
        runtime.free(at)
    with pytest.raises(runtime.CUDARuntimeError, match="InvalidValue"):
        runtime.memcpy(at, at, 8, runtime.memcpyDeviceToDevice)
    assert "or twice" in capfd.readouterr().err


MASK = (1 << 64) - 1


def _signed(x: int, bits: int) -> int:
    x &= (1 << bits) - 1
    return x - (1 << bits) if x >> bits - 1 else x


def _mad(x: int, y: int) -> int:
    low = x * y % 2**32 + y
    return ((y * y >> 32) + low + (low >> 32)) % 2**32


INSTRUCTIONS = {
    "mul.hi.u64 {}, {}, {};": lambda a, b: a * b >> 64,
    "mul.lo.s64 {}, {}, {};": lambda a, b: a * b,
    "sub.s64 {}, {}, {};": lambda a, b: a - b,
    "xor.b64 {}, {}, {};": lambda a, b: a ^ b,
    "min.u64 {}, {}, {};": min,
    "max.u64 {}, {}, {};": max,
    "div.u64 {}, {}, {};": lambda a, b: a // b,
    "rem.u64 {}, {}, {};": lambda a, b: a % b,
    "div.s64 {}, {}, {};": lambda a, b: abs(_signed(a, 64)) // abs(_signed(b, 64)) * (1 if _signed(a, 64) * _signed(b, 64) > 0 else -1),
    "{{ .reg .u32 n; cvt.u32.u64 n, {2}; shl.b64 {0}, {1}, n; }}": lambda a, b: 0 if b & 0xFFFFFFFF > 63 else a << (b & 63),
    "{{ .reg .u32 n; cvt.u32.u64 n, {2}; shr.u64 {0}, {1}, n; }}": lambda a, b: 0 if b & 0xFFFFFFFF > 63 else a >> (b & 63),
    "{{ .reg .u32 n; cvt.u32.u64 n, {2}; shr.s64 {0}, {1}, n; }}": lambda a, b: _signed(a, 64) >> min(b & 0xFFFFFFFF, 63),
    "{{ .reg .u32 x, y; cvt.u32.u64 x, {1}; cvt.u32.u64 y, {2}; shf.l.wrap.b32 x, x, y, y; cvt.u64.u32 {0}, x; }}":
        lambda a, b: (((b & 0xFFFFFFFF) << 32 | a & 0xFFFFFFFF) << (b & 31)) >> 32 & 0xFFFFFFFF,
    "{{ .reg .u32 x, y; cvt.u32.u64 x, {1}; cvt.u32.u64 y, {2}; mul.wide.u32 {0}, x, y; }}":
        lambda a, b: (a & 0xFFFFFFFF) * (b & 0xFFFFFFFF),
    "{{ .reg .u32 x, y; cvt.u32.u64 x, {1}; cvt.u32.u64 y, {2}; mad.lo.s32 x, x, y, y; cvt.s64.s32 {0}, x; }}":
        lambda a, b: _signed((a & 0xFFFFFFFF) * (b & 0xFFFFFFFF) + b, 32),
    "{{ .reg .pred p; setp.lt.s64 p, {1}, {2}; selp.b64 {0}, {1}, {2}, p; }}": lambda a, b: a if _signed(a, 64) < _signed(b, 64) else b,
    "{{ .reg .pred p; setp.ge.u64 p, {1}, {2}; @!p neg.s64 {0}, {1}; @p not.b64 {0}, {2}; }}": lambda a, b: ~b if a >= b else -a,
    "{{ .reg .u32 n; clz.b64 n, {1}; cvt.u64.u32 {0}, n; xor.b64 {0}, {0}, {2}; }}": lambda a, b: 64 - a.bit_length() ^ b,
    "bfi.b64 {}, {}, {}, 32, 32;": lambda a, b: (a & 0xFFFFFFFF) << 32 | b & 0xFFFFFFFF,
    "bfi.b64 {}, {}, {}, 60, 7;": lambda a, b: (a & 15) << 60 | b & (1 << 60) - 1,
    "{{ add.cc.u64 {0}, {1}, {2}; addc.u64 {0}, 0, 0; }}": lambda a, b: a + b >> 64,
    "{{ sub.cc.u64 {0}, {1}, {2}; subc.u64 {0}, {0}, 5; }}": lambda a, b: a - b - 5 - (a < b),
    "{{ .reg .u32 x, y; cvt.u32.u64 x, {1}; cvt.u32.u64 y, {2}; mad.lo.cc.u32 x, x, y, y; madc.hi.u32 x, y, y, x; cvt.u64.u32 {0}, x; }}":
        lambda a, b: _mad(a & 0xFFFFFFFF, b & 0xFFFFFFFF),
    "{{ .reg .u32 n; popc.b64 n, {1}; cvt.u64.u32 {0}, n; brev.b64 {0}, {0}; add.s64 {0}, {0}, {2}; }}":
        lambda a, b: int(f"{a.bit_count():064b}"[::-1], 2) + b,
}


@pytest.mark.parametrize("text", INSTRUCTIONS)
def test_instructions(cupy: Any, rng: np.random.Generator, text: str) -> None:  # noqa: F811
    """Of random words, and of those at the edges."""
    edges = np.array([0, 1, 2, 31, 32, 63, 64, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1], dtype=np.uint64)
    words = np.concatenate([edges, rng.integers(0, 2**64, 20, dtype=np.uint64)])
    a, b = (x.reshape(-1) for x in np.meshgrid(words, words))
    if text.startswith(("div", "rem")):
        a, b = a[b != 0], b[b != 0]
    out = cupy.zeros(a.size, dtype=np.uint64)
    assembly = text.format("%0", "%1", "%2")
    launch(cupy, f'const unsigned long long* a, const unsigned long long* b, unsigned long long* out) '
                 f'int i = blockIdx.x; asm("{assembly}" : "=&l"(out[i]) : "l"(a[i]), "l"(b[i]));',
           a.size, 1, cupy.asarray(a), cupy.asarray(b), out)
    assert out.get().tolist() == [INSTRUCTIONS[text](x, y) & MASK for x, y in zip(a.tolist(), b.tolist(), strict=True)]


@pytest.mark.parametrize("line", [
    "frob.u64 %rd1, %rd1;", "add.f32 %r1, %r1, %r1;", "add.sat.s32 %r1, %r1, %r1;", "setp.lt.and.s64 p, %rd1, %rd1, p;",
    "ld.local.u64 %rd1, [%rd1];", "mov.u64 %rd1, %clock64;", "bar.sync 1;", "cvt.rn.f32.s32 %r1, %r1;",
    "atom.global.exch.b32 %r1, [%rd1], %r1;", "mov.u64 %rd1, nobody;",
])
def test_what_is_not_known_is_an_error(line: str) -> None:
    kernel = f"{HEAD}.visible .entry k(.param .u64 k_0)\n{{\n.reg .b64 %rd<2>;\n.reg .b32 %r<2>;\n.reg .pred p;\n{line}\nret;\n}}\n"
    with pytest.raises(UnknownPtx, match="k: "):
        Translator(kernel).source()


def test_a_module_that_is_not_known_does_not_load(cupy: Any, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(cupy.cuda.driver.CUDADriverError, match="InvalidKernelImage"):
        launch(cupy, "float* a) a[0] = a[1] * a[2];", 1, 1, cupy.zeros(3, dtype=np.float32))
    assert "ld.global.f32" in capfd.readouterr().err
