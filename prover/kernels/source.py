"""The kernel source as one text: kernels.cpp with its own headers pasted in, each once.

NVRTC is given this, so that a compiled module cached under its source (as CuPy does) cannot outlive a changed header. Used by
prover/backend/cuda.py and by tests that compile for CUDA.
"""

import re

from prover.kernels import build

_INCLUDE = re.compile(r'^#include "([\w.]+)"\n', re.MULTILINE)


def single_source() -> str:
    """kernels.cpp and all it includes from its own folder; system headers stay includes."""
    seen: set[str] = set()

    def paste(name: str) -> str:
        if name in seen:
            return ""
        seen.add(name)
        text = (build.SOURCE / name).read_text(encoding="utf-8").replace("#pragma once\n", "")
        return _INCLUDE.sub(lambda match: paste(match[1]), text)

    return paste("kernels.cpp").encode("ascii", "replace").decode()  # comments: CuPy writes it down in the locale's encoding
