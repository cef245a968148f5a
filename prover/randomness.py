"""The prover's secrets: one 32-byte seed from the operating system per commitment or attempt, expanded by SHAKE-256.

Every purpose has its own label, so no two uses share a stream. A seed is kept only where a commitment has to be
opened again (private store); a task's own seed is used once and dropped.
"""

import hashlib
import secrets

import numpy as np

from protocol.field import U64, Field
from protocol.merkle import U8


def fresh_seed() -> bytes:
    """32 bytes from the operating system."""
    return secrets.token_bytes(32)


class SecretStream:
    """Uniform bytes and field elements from (seed, label)."""

    def __init__(self, field: Field, seed: bytes) -> None:
        if len(seed) != 32:
            raise ValueError("a seed has 32 bytes")
        self.field, self.seed = field, seed

    def octets(self, label: str, count: int) -> bytes:
        return hashlib.shake_256(b"verilora/secret/1\x00" + self.seed + label.encode()).digest(count)

    def salts(self, label: str, count: int) -> U8:
        """(count, 32) Merkle salts."""
        return np.frombuffer(self.octets(label, 32 * count), dtype=np.uint8).reshape(count, 32)

    def elements(self, label: str, *shape: int) -> U64:
        """Uniform elements of F of this shape, by rejection."""
        count = int(np.prod(shape, dtype=np.int64))
        limit = np.uint64((1 << 64) - (1 << 64) % self.field.p - 1)
        spare = 64
        while True:
            words = np.frombuffer(self.octets(label, 8 * (count + spare)), dtype=np.uint64)
            good = words[words <= limit][:count]
            if len(good) == count:
                return (good if limit < self.field.p else good % np.uint64(self.field.p)).reshape(shape)
            spare = 2 * spare + count  # toy fields reject more often
