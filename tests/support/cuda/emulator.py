"""Compiles the CUDA branch of the kernel source with the C++ compiler (emulate.h) and launches kernels from it on this machine.

The library is kept in the temporary folder under a digest of everything it was made of, so a session of tests builds it once.
"""

import ctypes
import hashlib
import os
import re
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from prover.kernels import build

PRELUDE = Path(__file__).with_name("emulate.h")
_KERNEL = re.compile(r"EMULATED_GLOBAL\s+void\s+(vl_\w+)\(")
_STATUS = {1: "a barrier that not all threads of the block reach", 2: "a wrong argument size, grid or block"}


class LaunchFailed(RuntimeError):
    """The emulated device would have hung, or read its arguments wrongly."""


def compiled(source: str, options: tuple[str, ...]) -> tuple[ctypes.CDLL, frozenset[str]]:
    """The library of a CUDA source and the names of its kernels."""
    flags = ["-std=c++17", "-O2", "-fPIC", "-w", *(o for o in options if o.startswith("-D"))]
    made_of = "\0".join([source, PRELUDE.read_text(), *flags, *build.compiler()])
    folder = Path(tempfile.gettempdir()) / f"verilora-emulated-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    stem = folder / hashlib.sha256(made_of.encode()).hexdigest()[:32]
    library, names = stem.with_suffix(".so"), stem.with_suffix(".names")
    if not (library.exists() and names.exists()):
        partial = folder / f"{stem.name}-{os.getpid()}"  # no dot, since suffixes are replaced
        plain = partial.with_suffix(".cpp")
        plain.write_text(source)
        text = _run([*build.compiler(), "-E", "-P", "-include", str(PRELUDE), "-D__global__=EMULATED_GLOBAL", *flags, str(plain)])
        kernels = sorted(set(_KERNEL.findall(text)))
        launchers = "".join(
            f"int emulate_{name}(const void* words, unsigned long long size, unsigned long long n0, unsigned long long n1, "
            f"unsigned grid, unsigned block) {{ return emulated::launch({name}, words, size, n0, n1, grid, block); }}\n"
            for name in kernels)
        plain.write_text(f"{text}\nextern \"C\" {{\n{launchers}}}\n")
        _run([*build.compiler(), *flags, "-shared", "-DEMULATED_GLOBAL=", str(plain), "-o", str(partial.with_suffix(".so"))])
        partial.with_suffix(".names").write_text(" ".join(kernels))
        os.replace(partial.with_suffix(".names"), names)
        os.replace(partial.with_suffix(".so"), library)
        plain.unlink()
    return ctypes.CDLL(str(library)), frozenset(names.read_text().split())


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"compiling for the emulated device failed:\n{done.stderr[-4000:]}")
    return done.stdout


def launch(library: ctypes.CDLL, name: str, grid: int, block: int, words: np.ndarray, n0: int, n1: int) -> None:
    """One launch; `words` is the body as an array of one element, passed by value."""
    call = getattr(library, f"emulate_{name}")
    call.argtypes = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint, ctypes.c_uint]
    status = call(words.ctypes.data, words.nbytes, n0, n1, grid, block)
    if status:
        raise LaunchFailed(f"{name}<<<{grid}, {block}>>>: {_STATUS.get(status, status)}")
