"""Is an error an allocator's, and what does it say?

Python, NumPy and CuPy raise MemoryError, torch an error of its own for a GPU and a plain RuntimeError for a host, the system
ENOMEM. Imports neither torch nor the prover: a verifying process asks as well. Called by tasks/shortage.py, tasks/verify.py and the
command line.
"""

import errno
import re
import sys

HOST_TORCH = "can't allocate memory"  # c10's allocator, which torch raises as a RuntimeError


def lack_of_memory(error: BaseException) -> str | None:
    """The first sentence of an allocator's error, or its kind if it has no text; None for any other error."""
    torch = sys.modules.get("torch")
    on_device = torch is not None and isinstance(error, torch.OutOfMemoryError)
    on_host = type(error) is RuntimeError and HOST_TORCH in str(error)
    of_system = isinstance(error, OSError) and error.errno == errno.ENOMEM
    if not (isinstance(error, MemoryError) or on_device or on_host or of_system):
        return None
    text = str(error)
    text = text[text.index(HOST_TORCH) :] if on_host else text
    return re.split(r"(?<=\D)\.\s", text)[0].rstrip(".") or type(error).__name__  # "256. MiB" is NumPy's, and no end of a sentence
