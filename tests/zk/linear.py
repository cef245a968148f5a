"""Linear algebra over a small prime field: matrices np.int64 with entries below p < 2^31."""

import numpy as np

from protocol.relation.graph import IntArray


def reduced(matrix: IntArray, p: int) -> tuple[IntArray, list[int]]:
    """Row echelon form with unit pivots, zero rows dropped, and the pivot columns."""
    m, pivots, row = matrix.astype(np.int64) % p, [], 0
    for column in range(m.shape[1]):
        candidates = np.flatnonzero(m[row:, column])
        if not len(candidates):
            continue
        found = row + int(candidates[0])
        m[[row, found]] = m[[found, row]]
        m[row] = m[row] * pow(int(m[row, column]), -1, p) % p
        others = np.flatnonzero(m[:, column])
        others = others[others != row]
        m[others] = (m[others] - m[others, column][:, None] * m[row]) % p
        pivots.append(column)
        row += 1
        if row == len(m):
            break
    return m[:row], pivots


def rank(matrix: IntArray, p: int) -> int:
    return len(reduced(matrix, p)[1])


def in_span(vector: IntArray, rows: IntArray, p: int) -> bool:
    """Is the vector a combination of the rows?"""
    basis, pivots = reduced(rows, p)
    rest = vector.astype(np.int64) % p
    for row, column in zip(basis, pivots, strict=True):
        rest = (rest - rest[column] * row) % p
    return not rest.any()


def solve(matrix: IntArray, target: IntArray, p: int) -> IntArray:
    """One x with matrix·x = target; ValueError if there is none."""
    joined = np.concatenate([matrix, target[:, None]], axis=1)
    basis, pivots = reduced(joined, p)
    if matrix.shape[1] in pivots:
        raise ValueError("no solution")
    x = np.zeros(matrix.shape[1], dtype=np.int64)
    for row, column in zip(basis, pivots, strict=True):
        x[column] = row[-1]
    return x
