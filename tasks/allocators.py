"""Is an error an allocator's, and what does it say?

Python, NumPy and CuPy's pool raise MemoryError, torch an error of its own for a GPU and a plain RuntimeError for a host, the system
ENOMEM, and the driver, asked for pinned memory, for a context or for a kernel's own, one with a status. Imports neither torch, CuPy nor
the prover: a verifying process asks as well. Called by tasks/shortage.py, tasks/gpu_fault.py, tasks/verify.py and the command line.
"""

import errno
import re
import sys

DRIVER = {"CUDARuntimeError", "CUDADriverError", "AcceleratorError"}  # what CuPy and torch call an error of CUDA's
ALLOCATION = 2  # cudaErrorMemoryAllocation, CUDA_ERROR_OUT_OF_MEMORY
HOST_TORCH = "can't allocate memory"  # c10's allocator, which torch raises as a RuntimeError


def lack_of_memory(error: BaseException) -> str | None:
    """The first sentence of an allocator's error, or its kind if it has no text; None for any other error."""
    torch = sys.modules.get("torch")
    on_device = torch is not None and isinstance(error, torch.OutOfMemoryError)
    on_host = type(error) is RuntimeError and HOST_TORCH in str(error)
    of_system = isinstance(error, OSError) and error.errno == errno.ENOMEM
    of_driver = type(error).__name__ in DRIVER and getattr(error, "status", None) == ALLOCATION
    if not (isinstance(error, MemoryError) or on_device or on_host or of_system or of_driver):
        return None
    text = str(error)
    text = text[text.index(HOST_TORCH) :] if on_host else text
    return re.split(r"(?<=\D)\.\s", text)[0].rstrip(".") or type(error).__name__  # "256. MiB" is NumPy's, and no end of a sentence
