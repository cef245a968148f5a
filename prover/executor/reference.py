"""The definition of every operation and hint in NumPy int64; prover/executor/torch_ops.py must equal it bit for bit.

An `Ops` object turns NumPy arrays into its own arrays and back (`load`, `store`), says what an evaluation returns (`result`, several of
which it can `join` along the first axis), and evaluates one operation of protocol/relation/graph.py
(`linear`, `axis_map`, `gather`, `product`, `one_hot`) or one hint (`round_shift`, `limb`, `rsqrt`, `isqrt`, `divide`,
`maximum`, `table`, `softmax_shift`, `digits`). All values are exact integers below 2^62 in magnitude: that is what the graph's bounds say.
Called by prover/executor/evaluate.py.
"""

from collections.abc import Sequence

import numpy as np

from protocol.relation.graph import AxisMap, IntArray, Linear, Product
from protocol.relation.tables import softmax_limit, table_columns


class ReferenceOps:
    """NumPy, int64 throughout, no cleverness."""

    def load(self, array: IntArray) -> IntArray:
        return np.asarray(array, dtype=np.int64)

    def store(self, array: IntArray) -> IntArray:
        return array

    def result(self, array: IntArray) -> IntArray:
        return array

    def join(self, parts: Sequence[IntArray]) -> IntArray:
        return np.concatenate(parts)

    def extent(self, array: IntArray) -> tuple[int, int]:
        return int(array.min()), int(array.max())

    def linear(self, op: Linear, values: Sequence[IntArray], axes: str, shape: tuple[int, ...]) -> IntArray:
        out = np.full(shape, op.const, dtype=np.int64)
        for term, value in zip(op.terms, values, strict=True):
            gone = tuple(i for i, a in enumerate(term.axes) if a not in axes)
            left = [a for a in term.axes if a in axes]
            part = np.transpose(value.sum(axis=gone), [left.index(a) for a in axes if a in left]) * term.coef
            part = part.reshape([shape[i] if a in left else 1 for i, a in enumerate(axes)])
            for axis, vector in term.vectors:
                part = part * vector.reshape([-1 if a == axis else 1 for a in axes])
            out += part
        return out

    def axis_map(self, op: AxisMap, value: IntArray | None, shape: tuple[int, ...]) -> IntArray:
        out = np.zeros(shape, dtype=np.int64)
        if value is not None:
            moved, source = np.moveaxis(out, op.axis, 0), np.moveaxis(value, op.axis, 0)
            for row, col, val in zip(op.rows.tolist(), op.cols.tolist(), op.vals.tolist(), strict=True):
                moved[row] += val * source[col]
        return out

    def gather(self, value: IntArray, index: IntArray) -> IntArray:
        return value[index]

    def product(self, op: Product, a: IntArray, b: IntArray, axes: str) -> IntArray:
        return np.asarray(np.einsum(f"{op.a_axes},{op.b_axes}->{axes}", a, b, optimize=False))

    def one_hot(self, high: IntArray, low: IntArray, size: int) -> IntArray:
        pairs = high[..., :, None] * low[..., None, :]
        return np.ascontiguousarray(pairs.reshape(*high.shape[:-1], -1)[..., :size])

    def round_shift(self, z: IntArray, shift: int) -> IntArray:
        return (z + (1 << shift - 1)) >> shift if shift > 0 else z << -shift

    def limb(self, t: IntArray, shift: int, bits: int) -> IntArray:
        return (t >> shift) & ((1 << bits) - 1)

    def rsqrt(self, v: IntArray, target: int) -> IntArray:
        """r with (2r−1)²·v ≤ target < (2r+1)²·v for v ≥ 1, by the exact root of ⌊target / v⌋."""
        quotient = target // v
        return (self.isqrt(quotient) + 1) // 2

    def isqrt(self, v: IntArray) -> IntArray:
        """⌊√v⌋ of 0 ≤ v < 2^62: the float64 root is at most one off."""
        root = np.sqrt(v.astype(np.float64)).astype(np.int64)
        root -= root * root > v
        root += (root + 1) * (root + 1) <= v
        return np.asarray(root)

    def divide(self, numerator: IntArray, divisor: IntArray) -> IntArray:
        """⌊numerator / divisor⌋ for divisor ≥ 1, numerators of either sign."""
        return np.asarray(numerator // divisor)

    def maximum(self, d: IntArray, limit: int) -> IntArray:
        return np.maximum(d, limit)

    def table(self, x: IntArray, table: str) -> list[IntArray]:
        """The output columns at the rows whose first column is x."""
        columns = table_columns(table)
        return [column[x - int(columns[0][0])] for column in columns[1:]]

    def softmax_shift(self, s: IntArray, mask: IntArray | None, g: int, bits: int) -> IntArray:
        """min{z : Σ_j T[z − s_j] ≤ K} over unmasked j of each row, by bisection."""
        table, limit = table_columns(f"exp:{g}:{bits}")[1], softmax_limit(g, bits)
        kept = np.ones(s.shape, dtype=bool) if mask is None else np.broadcast_to(mask == 1, s.shape)
        top = np.where(kept, s, np.iinfo(np.int64).min).max(axis=-1)
        low, high = top - 1, top + (1 << 16)  # the sum exceeds K at low (T[−1] > K alone), not at high
        while (high - low > 1).any():
            middle = (low + high) >> 1
            index = np.clip(np.where(kept, middle[..., None] - s, 65535), 0, 65535)
            fits = (table[index].sum(axis=-1) <= limit) & (middle >= top)
            low, high = np.where(fits, low, middle), np.where(fits, middle, high)
        return np.asarray(high)

    def digits(self, ids: IntArray, base: int, sizes: tuple[int, int]) -> list[IntArray]:
        """One-hot rows of ids // base and ids mod base."""
        pair = (ids // base, ids % base)
        return [(d[..., None] == np.arange(n)).astype(np.int64) for d, n in zip(pair, sizes, strict=True)]
