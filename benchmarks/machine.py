"""The machine's own rates, which every other figure is divided by.

multiplications/s: products in Goldilocks by the prover's own kernel (`kdot`, four products an entry) on arrays that stay in the
cache, the best of four sizes; SHA-256 bytes/s: hashlib on one long message, times the number of threads that the prover uses, or the
prover's own kernel on columns of a few rows in the cache if that is faster, since it takes many messages at once.
"""

import hashlib
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from protocol.field import GOLDILOCKS, U64
from prover.backend.base import Backend


@dataclass(frozen=True)
class Machine:
    name: str
    threads: int
    multiplications: float
    sha256_bytes: float


def median_seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """Median wall time of `work` after one warm-up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return sorted(times)[repeats // 2]


def random_elements(shape: tuple[int, ...], seed: int = 1) -> U64:
    """Field elements for benchmarks; not secret."""
    words = np.random.default_rng(seed).integers(0, 2**63, shape, dtype=np.uint64)
    return words % np.uint64(GOLDILOCKS.p)


def measure_machine(backend: Backend) -> Machine:
    threads = int(os.environ.get("VERILORA_THREADS", os.cpu_count() or 1))
    rates = []
    for log_size in (15, 16, 17, 18):  # the best of these: calls weigh on small arrays, memory on large ones
        a, b = (backend.to_device(random_elements((2, 1 << log_size), seed)) for seed in (1, 2))
        seconds = median_seconds(lambda a=a, b=b: [backend.kdot(a, b) for _ in range(32)])  # type: ignore[misc]
        rates.append(32 * 4 * (1 << log_size) / seconds)
    data = bytes(1 << 24)
    sha = median_seconds(lambda: hashlib.sha256(data).digest(), 3)
    rows, salts = backend.to_device(random_elements((64, 1 << 11))), np.zeros((1 << 11, 32), dtype=np.uint8)
    columns = median_seconds(lambda: [backend.hash_columns(rows, salts) for _ in range(32)])
    return Machine(cpu_name(), threads, max(rates), max(threads * len(data) / sha, 32 * rows.nbytes / columns))


def cpu_name() -> str:
    """The processor as the system names it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
