"""The kernels' threads: their number changes nothing, callers may be many, forks are safe, waiting costs nothing; the backends are those of
test_kernels.py."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from protocol.code import Code
from protocol.field import GOLDILOCKS as F
from prover.backend.cpu import CpuBackend
from tests.prover.test_kernels import cpu, elements, rng, same  # noqa: F401 - two are fixtures


def test_thread_count_changes_nothing(cpu: CpuBackend, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    a, b, code = elements(rng, 2, 50_002), elements(rng, 2, 50_002), Code(F, 1024, 4096, 40)
    messages, rho = elements(rng, 5, 1024), elements(rng, 5, 40)
    salts = rng.integers(0, 256, (4096, 32), dtype=np.uint8)
    results = []
    for threads in ("1", "2", "3", "16"):
        monkeypatch.setenv("VERILORA_THREADS", threads)
        codeword = cpu.encode(code, messages, rho)
        results.append((cpu.kmul(a, b), cpu.product_round(a, b), codeword, cpu.hash_columns(codeword, salts)))
    for other in results[1:]:
        same(results[0], other)


def test_concurrent_callers_and_forked_children(cpu: CpuBackend, rng: np.random.Generator) -> None:  # noqa: F811
    a, b = elements(rng, 2, 100_003), elements(rng, 2, 100_003)
    expected = cpu.kmul(a, b)
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda _: cpu.kmul(a, b), range(8)):
            same(result, expected)
    child = os.fork()
    if child == 0:  # the parent's workers do not exist here
        os._exit(0 if np.array_equal(cpu.kmul(a, b), expected) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_children_forked_while_other_threads_compute(cpu: CpuBackend, rng: np.random.Generator) -> None:  # noqa: F811
    a, b = elements(rng, 2, 100_003), elements(rng, 2, 100_003)
    expected, done = cpu.kmul(a, b), threading.Event()

    def keep_busy() -> bool:
        right = True
        while not done.is_set():
            right &= np.array_equal(cpu.kmul(a, b), expected)
        return right

    with ThreadPoolExecutor(2) as pool:
        busy = [pool.submit(keep_busy) for _ in range(2)]
        try:
            for _ in range(10):  # whoever holds the pool of workers does not exist in the child
                child = os.fork()
                if child == 0:
                    os._exit(0 if np.array_equal(cpu.kmul(a, b), expected) else 1)
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        finally:
            done.set()
        assert all(x.result() for x in busy)


def test_workers_that_wait_take_no_processor_time(cpu: CpuBackend, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setenv("VERILORA_THREADS", "4")
    a, b = elements(rng, 2, 100_003), elements(rng, 2, 100_003)
    cpu.kmul(a, b)
    before = time.process_time()
    time.sleep(1)
    assert time.process_time() - before < 0.5  # one that spins would take the whole second
