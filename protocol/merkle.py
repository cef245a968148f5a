"""Binary SHA-256 Merkle trees over the columns of a codeword and their multi-proofs, protocol.md section 2.

leaf_i = SHA-256(LEAF_TAG ‖ salt_i (32 bytes) ‖ column_i, big-endian words);  node = SHA-256(NODE_TAG ‖ left ‖ right).
Both tags have 32 bytes (a leaf's tag and salt fill one SHA-256 block) and differ, so no leaf passes for a node.
The number of leaves n is a power of two. Digest arrays have shape (count, 32), uint8.

A multi-proof for sorted distinct positions lists, level by level from the leaves to below the root and from left to
right, the siblings that the verifier cannot compute itself. Its length follows from n and the positions alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from protocol.errors import VerificationError

U8 = npt.NDArray[np.uint8]

LEAF_TAG = b"verilora/merkle/leaf/v1".ljust(32, b"\0")
NODE_TAG = b"verilora/merkle/node/v1".ljust(32, b"\0")
DIGEST_BYTES = 32


def leaf_digest(salt: bytes, column: bytes) -> bytes:
    """Digest of one column (its words big-endian, 8 bytes each) under a 32-byte salt."""
    if len(salt) != 32:
        raise VerificationError("length", "leaf salt", "32 bytes", str(len(salt)))
    return hashlib.sha256(LEAF_TAG + salt + column).digest()


def node_digest(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(NODE_TAG + left + right).digest()


def levels_from_leaves(leaves: U8) -> list[U8]:
    """All levels, leaves first, root (1, 32) last."""
    _check_size(leaves.shape[0])
    levels = [leaves]
    while levels[-1].shape[0] > 1:
        pairs = levels[-1].reshape(-1, 2 * DIGEST_BYTES)
        digests = b"".join(hashlib.sha256(NODE_TAG + pair.tobytes()).digest() for pair in pairs)
        levels.append(np.frombuffer(digests, dtype=np.uint8).reshape(-1, DIGEST_BYTES))
    return levels


def proof_length(n: int, positions: Sequence[int]) -> int:
    """Number of digests in the multi-proof."""
    return sum(len(missing) for _, missing in _walk(n, tuple(positions)))


def prove(levels: Sequence[U8], positions: Sequence[int]) -> list[bytes]:
    """The multi-proof from all levels of the tree."""
    walk = _walk(levels[0].shape[0], tuple(positions))
    data = b"".join(levels[k][missing].tobytes() for k, (_, missing) in enumerate(walk) if missing)
    return [data[at : at + DIGEST_BYTES] for at in range(0, len(data), DIGEST_BYTES)]


def root_from_proof(n: int, positions: Sequence[int], leaf_digests: Sequence[bytes], nodes: Sequence[bytes]) -> bytes:
    """The root that these leaves and siblings lead to; the caller compares it with the committed one."""
    walk = _walk(n, tuple(positions))
    wanted = sum(len(missing) for _, missing in walk)
    if len(leaf_digests) != len(positions):
        raise VerificationError("length", "Merkle leaves", str(len(positions)), str(len(leaf_digests)))
    if len(nodes) != wanted or any(len(node) != DIGEST_BYTES for node in nodes):
        raise VerificationError("length", "Merkle multi-proof", f"{wanted} digests of 32 bytes", str(len(nodes)))
    known = dict(zip(positions, leaf_digests, strict=True))
    taken = 0
    for parents, missing in walk:
        for i in missing:
            known[i] = nodes[taken]
            taken += 1
        known = {i: node_digest(known[2 * i], known[2 * i + 1]) for i in parents}
    return known[0]


@lru_cache(maxsize=1)
def _walk(n: int, positions: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """Per level below the root: indices of the parents, and of the siblings that have to be sent. The last one is kept: all
    commitments of a proof are opened at the same positions."""
    _check_size(n)
    if not positions or positions[0] < 0 or positions[-1] >= n or any(
        a >= b for a, b in pairwise(positions)
    ):
        raise VerificationError("positions", "Merkle multi-proof", f"sorted, distinct, below {n}", str(list(positions)[:8]))
    steps = []
    current = list(positions)
    while n > 1:
        have = set(current)
        missing = [i ^ 1 for i in current if i ^ 1 not in have]
        current = list(dict.fromkeys([i >> 1 for i in current]))
        steps.append((current, missing))
        n >>= 1
    return steps


def _check_size(n: int) -> None:
    if n < 1 or n & (n - 1):
        raise VerificationError("size", "Merkle tree", "a power of two", str(n))
