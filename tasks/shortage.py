"""A proof that needs more memory than there is: what happened, where, and what to do, in place of an allocator's words.

NumPy and CuPy raise MemoryError, torch an error of its own. No proof is stored then, so nothing is lost but an opening, if it was
spent already, and the run goes on where it stopped. Called by tasks/prove.py.
"""

import contextlib
import traceback
from collections.abc import Iterator

import torch

from prover.backend.base import Backend
from prover.backend.memory import shares
from prover.cost.machine import describe
from tasks.context import RunError


class OutOfMemory(RunError):
    """A task needs more memory than this process may use, or than is left."""


@contextlib.contextmanager
def shortage_told(task: object, backend: Backend) -> Iterator[None]:
    """Turn an allocator's error into OutOfMemory; the arrays that the failed work still holds are freed."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        said = str(error).split(". ")[0].rstrip(".") or type(error).__name__
        traceback.clear_frames(error.__traceback__)
        raise OutOfMemory(_advice(task, backend, said)) from None


def _advice(task: object, backend: Backend, said: str) -> str:
    processes, device = shares(), "GPU" if backend.name == "cuda" else "machine"
    whose = f"one of {processes} equal shares of its memory" if processes > 1 else "all of its memory"
    fewer = "fewer `--processes`" if processes > 1 else "nothing else beside it"
    return (
        f"{task} ran out of memory ({said}); its prover may use {describe(backend.memory)} of this {device}, {whose}. Nothing is "
        f"lost: start the provers with {fewer}, or on a larger {device}, then the same run again. A run that is planned with a smaller "
        "orchestration.prover_memory or more audit.parts has smaller tasks"
    )
