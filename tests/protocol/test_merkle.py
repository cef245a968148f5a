"""protocol.merkle: every set of positions for n = 16, and every way to be wrong."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from protocol import merkle
from protocol.errors import VerificationError


def tree(n: int) -> list[np.ndarray]:
    return merkle.levels_from_leaves(np.random.default_rng(n).integers(0, 256, (n, 32), dtype=np.uint8))


def leaves_at(levels: list[np.ndarray], positions: list[int]) -> list[bytes]:
    return [levels[0][i].tobytes() for i in positions]


def test_every_position_set_of_sixteen_leaves() -> None:
    levels = tree(16)
    root = levels[-1].tobytes()
    for mask in range(1, 1 << 16, 5):
        positions = [i for i in range(16) if mask >> i & 1]
        proof = merkle.prove(levels, positions)
        assert len(proof) == merkle.proof_length(16, positions)
        assert merkle.root_from_proof(16, positions, leaves_at(levels, positions), proof) == root


def test_proofs_of_other_positions_and_trees_in_turns() -> None:
    """What is kept of the last proof serves the same positions of the same size of tree alone."""
    trees, chosen = {n: tree(n) for n in (8, 16)}, ([0, 3], [0, 3, 5], [1, 3])
    for n, positions in [(n, positions) for positions in chosen for n in trees] * 2:
        levels = trees[n]
        proof = merkle.prove(levels, positions)
        assert len(proof) == merkle.proof_length(n, positions)
        assert merkle.root_from_proof(n, positions, leaves_at(levels, positions), proof) == levels[-1].tobytes()


@pytest.mark.parametrize("n", [1, 2, 4, 8])
def test_all_sets_of_smaller_trees(n: int) -> None:
    levels = tree(n)
    for mask in range(1, 1 << n):
        positions = [i for i in range(n) if mask >> i & 1]
        proof = merkle.prove(levels, positions)
        assert merkle.root_from_proof(n, positions, leaves_at(levels, positions), proof) == levels[-1].tobytes()


def test_hashes_are_tagged() -> None:
    salt, column = bytes(range(32)), bytes(range(16))
    assert merkle.leaf_digest(salt, column) == hashlib.sha256(merkle.LEAF_TAG + salt + column).digest()
    assert merkle.leaf_digest(salt, column) != merkle.node_digest(salt, column)
    left, right = bytes(32), b"\1" * 32
    assert merkle.leaf_digest(left, right) != merkle.node_digest(left, right) != merkle.node_digest(right, left)
    with pytest.raises(VerificationError, match="length"):
        merkle.leaf_digest(salt[1:], column)


def test_any_change_changes_the_root() -> None:
    levels = tree(16)
    positions = [0, 3, 7, 8]
    leaves, proof = leaves_at(levels, positions), merkle.prove(levels, positions)
    root = levels[-1].tobytes()
    for k in range(len(proof)):
        other = [*proof]
        other[k] = bytes([other[k][0] ^ 1]) + other[k][1:]
        assert merkle.root_from_proof(16, positions, leaves, other) != root
    for k in range(len(leaves)):
        wrong = [*leaves]
        wrong[k] = wrong[k][:-1] + bytes([wrong[k][-1] ^ 128])
        assert merkle.root_from_proof(16, positions, wrong, proof) != root
    assert merkle.root_from_proof(16, [0, 3, 6, 8], leaves, proof) != root


def test_wrong_counts_and_positions_are_rejected() -> None:
    levels = tree(16)
    leaves, proof = leaves_at(levels, [2, 9]), merkle.prove(levels, [2, 9])
    for nodes in (proof[:-1], [*proof, bytes(32)], [*proof[:-1], bytes(31)]):
        with pytest.raises(VerificationError, match="length at Merkle multi-proof"):
            merkle.root_from_proof(16, [2, 9], leaves, nodes)
    with pytest.raises(VerificationError, match="length at Merkle leaves"):
        merkle.root_from_proof(16, [2, 9], leaves[:1], proof)
    for positions in ([], [9, 2], [2, 2], [-1, 3], [3, 16]):
        with pytest.raises(VerificationError, match="positions"):
            merkle.root_from_proof(16, positions, leaves, proof)
    with pytest.raises(VerificationError, match="size"):
        merkle.proof_length(12, [1])
