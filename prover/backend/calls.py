"""Calls of the compiled kernels (prover/kernels): what the parts of the CPU backend share.

A kernel takes a struct of 8-byte words (packed bytes), then the two extents of its index space. A K array goes in
as the addresses of its two planes, so slices along the last axis are used in place. Kernels trust their extents, so every array's
shape is checked before its address is taken. Threads: VERILORA_THREADS, else all.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from protocol.field import U64, Ext, Field
from prover.backend.base import Round
from prover.backend.field import KernelField, address
from prover.backend.field import planes as at
from prover.backend.host import HostArrays
from prover.backend.talk import Talk
from prover.kernels import build

AnyArray = npt.NDArray[Any]
_SIGNATURE = (ctypes.c_char_p, ctypes.c_uint64, ctypes.c_uint64)


class Kernels(HostArrays):
    """The library of a level, by default the one for this machine; its kernels by name."""

    def __init__(self, level: str | None = None) -> None:
        self._library = build.library(level)
        self.field: Field = KernelField(self._call)
        self._kernels: dict[str, Callable[[bytes, int, int], None]] = {}
        self._library.vl_keep_memory()

    def _call(self, name: str, n0: int, n1: int, *words: int, head: bytes = b"", end: bytes = b"") -> None:
        """`head` and `end`: words that were packed before."""
        if n0 and n1:
            kernel = self._kernels.get(name)
            if kernel is None:
                kernel = self._kernels[name] = getattr(self._library, name)
                kernel.argtypes = _SIGNATURE
            kernel(head + struct.pack(f"{len(words)}Q", *words) + end, n0, n1)

    def _sum(
        self, name: str, sums: int, n0: int, n1: int, words: Sequence[int], *tail: int, head: bytes = b"", end: bytes = b""
    ) -> list[Ext]:
        """Kernels with sums over K: the result's address follows the array addresses."""
        out = np.zeros((sums, 2), dtype=np.uint64)
        self._call(name, n0, n1, *words, address(out), *tail, head=head, end=end)
        return [Ext(c0, c1, self.field) for c0, c1 in out.tolist()]

    def _talk(self, name: str, talk: Talk, first: Round | None, *words: int) -> None:
        """Kernels that run the rounds a talk has left (prover/kernels/rounds.h): its words come first, then the first polynomial's."""
        rounds, tag = talk.rounds, np.frombuffer(bytearray(talk.tag.encode()), dtype=np.uint8)
        pads = talk.pads[len(talk.challenges) :]
        if not rounds or pads.shape != (rounds, 4) or pads.dtype != np.uint64 or not pads.flags.c_contiguous:
            raise ValueError(f"pads of shape {pads.shape} for {rounds} rounds")
        said = np.empty(4 + 6 * rounds, dtype=np.uint64)  # state, challenges, messages
        said[:4] = np.frombuffer(talk.transcript.state, dtype=np.uint64)
        begun = (0, 0, 0, 0, 0) if first is None else (1, first[0].c0, first[0].c1, first[1].c0, first[1].c1)
        self._call(name, 1, 1, address(said), address(tag), tag.size, address(pads), rounds, *begun, *words)
        state, challenges, messages = said[:4], said[4 : 4 + 2 * rounds], said[4 + 2 * rounds :]
        talk.said(state.tobytes(), messages.tobytes(), challenges.reshape(rounds, 2))


def words(a: U64) -> U64:
    return np.ascontiguousarray(a, dtype=np.uint64)


def shape(a: AnyArray, wanted: tuple[int, ...]) -> tuple[int, ...]:
    """Kernels trust their extents, so every array is checked here; -1 stands for any."""
    if a.ndim != len(wanted) or any(w not in (-1, d) for w, d in zip(wanted, a.shape, strict=True)):
        raise ValueError(f"array of shape {a.shape} where {wanted} is needed")
    return a.shape


def planes(a: U64, size: int = -1) -> U64:
    """A K array (2, size) whose planes are contiguous, the array itself where possible."""
    if a.ndim != 2 or a.shape[0] != 2 or size not in (-1, a.shape[1]):
        raise ValueError(f"array of shape {a.shape} where {(2, size)} is needed")
    return a if a.dtype == np.uint64 and a.strides[-1] == 8 else words(a)


def written(out: U64, size: int) -> None:
    shape(out, (2, size))
    if out.dtype != np.uint64 or out.strides[-1] != 8:
        raise ValueError("a result needs contiguous planes of 64-bit words")


def halves(a: U64) -> tuple[int, int, int, int]:
    """Plane addresses of the low and of the high half."""
    if a.shape[1] % 2:
        raise ValueError(f"a table of {a.shape[1]} entries has no halves")
    first, second = at(a)
    middle = a.shape[1] // 2 * 8
    return first, second, first + middle, second + middle
