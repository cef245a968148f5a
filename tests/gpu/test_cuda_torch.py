"""The CUDA backend and torch on one device: values that the executor left there are shared, and each leaves the other its memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from prover.argument.prove import prove_task
from prover.backend import cuda_module, select
from prover.backend.cuda import CudaBackend
from prover.backend.memory import SHARES
from prover.commitment.commit import commit
from prover.executor.torch_ops import TorchOps
from prover.witness.task import task_values
from tests.prover.test_cuda_proofs import every_kind, prove  # noqa: F401
from tests.support.device import REAL
from tests.support.stage import PARAMS, Case, seed

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not REAL, reason="needs a CUDA device, and VERILORA_TEST_GPU=1")]


@pytest.fixture(scope="module")
def backend() -> CudaBackend:
    return CudaBackend(cuda_module(), 64)


def test_values_of_the_executor_are_shared(every_kind: dict[str, Case], backend: CudaBackend) -> None:  # noqa: F811
    case = every_kind["layer"]
    manifest, task = case.stage.toy.manifest, case.task
    window, ops = manifest.windows()[task.window], TorchOps("cuda", keep=True)
    values = task_values(manifest, task.kind, window, task.subject, case.inputs, ops)[1]
    assert all(backend.to_device(v).data.ptr == v.data_ptr() for v in values if v.numel())
    inputs = [(role, commit(backend, case.stage.layout(name), case.stage.arrays[str(name)], seed(str(name))))
              for role, name in case.task.commitments]
    published = case.published()
    proof = prove_task(backend, case.shape, case.statement(published), inputs, values, published, PARAMS, seed("attempt"), lambda: None)
    assert proof == prove(select("cpu"), case)


def test_a_share_of_the_device(every_kind: dict[str, Case], monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """The same proof; blocks that a library keeps unused do not stand in the other's way; more than the share is refused to both."""
    cupy = cuda_module()
    assert cupy is not None
    pool = cupy.get_default_memory_pool()
    monkeypatch.setenv(SHARES, "8")
    try:
        shared = CudaBackend(cupy, 64)
        size = shared.memory
        torch.empty(size // 2, dtype=torch.uint8, device="cuda")  # kept by torch from now on
        assert prove(shared, every_kind["layer"]) == prove(select("cpu"), every_kind["layer"])
        held = cupy.empty(size * 3 // 4, dtype=np.uint8)
        with pytest.raises(MemoryError):
            cupy.empty(size // 2, dtype=np.uint8)
        shared.release()
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(size // 2, dtype=torch.uint8, device="cuda")
        del held  # kept by the library: a larger array takes its place
        assert cupy.empty(size * 7 // 8, dtype=np.uint8).nbytes == size * 7 // 8
        shared.release()
        assert torch.empty(size * 7 // 8, dtype=torch.uint8, device="cuda").numel() == size * 7 // 8
    finally:
        cupy.cuda.set_allocator(pool.malloc)
        pool.set_limit(size=0)
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
        pool.free_all_blocks()
