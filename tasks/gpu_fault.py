"""A GPU that fails in the middle of work: what happened and what to do, in place of the driver's words.

After a fault (an address that is not there, a multiprocessor that hangs, memory whose errors cannot be corrected) the context is lost:
whatever this process asks of the device fails, and what it computed there is gone. Nothing that was recorded is touched, and another
process has a context of its own. So a shift ends as a killed one does (flows/prove.py), and its statement is another prover's. Called by
tasks/prove.py, tasks/train.py and tasks/plan.py.
"""

import contextlib
import traceback
from collections.abc import Iterator

from tasks.allocators import DRIVER, lack_of_memory
from tasks.context import RunError

LOST = ("{what} was not finished: the GPU failed ({said}), and this process can compute nothing on it any more. Nothing that is recorded "
        "is lost: another worker, or the same run again, goes on where this one stopped. The system's log (`dmesg`, Xid) and `nvidia-smi "
        "-q` say what is wrong with the GPU; if another one fails at the same place, it is a fault of this program")


class GpuFailed(RunError):
    """A device with which this process can do nothing, or nothing more."""


@contextlib.contextmanager
def fault_told(what: object) -> Iterator[None]:
    """Turn a driver's error, unless it is about memory, into GpuFailed; the arrays that the failed work still holds are freed."""
    try:
        yield
    except Exception as error:
        if type(error).__name__ not in DRIVER or lack_of_memory(error) is not None:
            raise
        said = str(error).partition("\n")[0].strip() or type(error).__name__
        traceback.clear_frames(error.__traceback__)
        raise GpuFailed(LOST.format(what=what, said=said)) from None
