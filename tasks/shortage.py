"""Work that needs more memory than there is: what happened, where, and what to do, in place of an allocator's words.

    proving     no proof is stored then: nothing is lost but an opening, if it was spent already, and the run goes on where it stopped
    training    a window is recorded whole or not at all: the same run again trains this one anew
    planning    calibration and measures write nothing; commitments of the start are written, if at all, before anything names them

Called by tasks/prove.py, tasks/train.py and tasks/plan.py. (Of the verifier tasks/verify.py speaks, of other commands cli/output.py.)
"""

import contextlib
import traceback
from collections.abc import Iterator

from prover.backend.base import Backend
from prover.backend.memory import host_memory, shares
from prover.cost.machine import describe
from tasks.allocators import lack_of_memory
from tasks.context import RunError

PROVING = ("Nothing is lost: start the provers with {fewer}, or on a larger {device}, then the same run again. A run that is planned "
           "with a smaller orchestration.prover_memory or more audit.parts has smaller tasks")
TRAINING = ("Nothing that is recorded is lost, and the same run again continues with this window: start it with {fewer}, or on a larger "
            "{device}. `orchestration.backlog: 0` proves a window before the next one is trained; a new run with a smaller "
            "training.sequence_length, batch_size or window_steps takes less")
PLANNING = ("Nothing is recorded yet: start it with {fewer}, or on a larger {device}. Calibration takes less with a smaller "
            "training.sequence_length")
COMMITTING = "Nothing is recorded yet, and the same run again starts anew: start it with {fewer}, or on a larger {device}"


class OutOfMemory(RunError):
    """Work that needs more memory than this process may use, or than is left."""


@contextlib.contextmanager
def shortage_told(what: object, remedy: str, backend: Backend | None = None) -> Iterator[None]:
    """Turn an allocator's error into OutOfMemory with `remedy`; the arrays that the failed work still holds are freed. Work without a
    backend is the host's."""
    try:
        yield
    except Exception as error:
        said = lack_of_memory(error)
        if said is None:
            raise
        traceback.clear_frames(error.__traceback__)
        raise OutOfMemory(_advice(what, remedy, backend, said)) from None


def _advice(what: object, remedy: str, backend: Backend | None, said: str) -> str:
    processes, device = shares(), "GPU" if backend is not None and backend.name == "cuda" else "machine"
    memory = host_memory() if backend is None else backend.memory
    whose = f"one of {processes} equal shares of its memory" if processes > 1 else "all of its memory"
    fewer = "fewer `--processes`" if processes > 1 else "nothing else beside it"
    return (f"{what} ran out of memory ({said}); this process may use {describe(memory)} of this {device}, {whose}. "
            + remedy.format(fewer=fewer, device=device))
