"""Public randomness from a seed: a SHA-256 counter stream, permutations, and the initial adapter.

    block_i = SHA-256("verilora/stream" ‖ len(label) ‖ label ‖ i),  words = its four big-endian 64-bit integers

Uniform integers by rejection (a word at or above the largest multiple of n is skipped), permutations by
Fisher–Yates, lora_A uniform in ±1/√d_in (PEFT's kaiming_uniform with a = √5) by integers alone: every machine gets the
same values. Called by the manifest (data order), the relation (first window) and the trainer.
"""

import hashlib
from math import isqrt, prod

import numpy as np
import numpy.typing as npt

from protocol.relation.graph import IntArray

MASTER_BITS = 24  # fractional bits of master weights


class CounterStream:
    """An endless sequence of 64-bit words, determined by `label`."""

    def __init__(self, label: str) -> None:
        data = label.encode()
        self._prefix = b"verilora/stream" + len(data).to_bytes(8, "big") + data
        self._counter = 0

    def words(self, count: int) -> npt.NDArray[np.uint64]:
        """The next ⌈count/4⌉ blocks, their first `count` words."""
        blocks = range(self._counter, self._counter + -(-count // 4))
        self._counter = blocks.stop
        data = b"".join(hashlib.sha256(self._prefix + i.to_bytes(8, "big")).digest() for i in blocks)
        return np.frombuffer(data, dtype=">u8")[:count].astype(np.uint64)

    def below(self, n: int, count: int) -> IntArray:
        """`count` uniform integers in [0, n), n ≤ 2^32."""
        limit, found = np.uint64((1 << 64) // n * n - 1), np.zeros(0, dtype=np.int64)
        while len(found) < count:
            words = self.words(count - len(found))
            found = np.concatenate([found, (words[words <= limit] % np.uint64(n)).astype(np.int64)])
        return found

    def permutation(self, n: int) -> IntArray:
        """Fisher–Yates: for i = n−1 … 1 swap i with a uniform j ≤ i (a rejected word's successor comes after all)."""
        order = list(range(n))
        for i, word in zip(range(n - 1, 0, -1), self.words(n - 1).tolist(), strict=True):
            j = word % (i + 1) if word < (1 << 64) // (i + 1) * (i + 1) else int(self.below(i + 1, 1)[0])
            order[i], order[j] = order[j], order[i]
        return np.array(order, dtype=np.int64)


def initial_lora_a(seed: int, layer: int, module: str, shape: tuple[int, ...]) -> IntArray:
    """lora_A of one module, [r, axes of its input], int64 with 24 fractional bits, uniform in ±⌊2^24/√d_in⌋."""
    fan_in = prod(shape[1:])
    bound = isqrt((1 << 2 * MASTER_BITS) // fan_in)
    stream = CounterStream(f"lora_A/{seed}/{layer}/{module}")
    return stream.below(2 * bound + 1, prod(shape)).reshape(shape) - bound
