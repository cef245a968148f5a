"""The NumPy definition of every backend method, for any field (see base.py for shapes); slow, plain, the yardstick.

Tests over toy fields run on it, and every other backend must return the same words.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np

from protocol import merkle
from protocol.code import Code
from protocol.field import GOLDILOCKS, I64, U64, Ext, Field
from prover.backend.base import U8, Round
from prover.backend.host import DenseLeaves, HostArrays, check_portion
from prover.backend.leaves import Run
from prover.backend.outer import OuterSum
from prover.backend.talk import Summand, Talk
from prover.backend.tiled import Tiled


class ReferenceBackend(DenseLeaves, HostArrays):
    """Backend over `field` in NumPy."""

    name = "reference"

    def __init__(self, field: Field = GOLDILOCKS) -> None:
        self.field = field

    # ---- commitment ----------------------------------------------------------------------------------------------

    def encode(self, code: Code, messages: U64, rho: U64, out: U64 | None = None) -> U64:
        codewords = code.encode(messages, rho)
        if out is None:
            return codewords
        out[...] = codewords
        return out

    def message_of(self, code: Code, coefs: U64) -> U64:
        return code.message_of(coefs)

    def coefficients(self, code: Code, message: U64, rho: U64) -> U64:
        return code.coefficients(message, rho)

    def hash_columns(self, codeword: U64, salts: U8) -> U8:
        columns = np.ascontiguousarray(codeword.T).astype(">u8")
        digests = [merkle.leaf_digest(s.tobytes(), c.tobytes()) for s, c in zip(salts, columns, strict=True)]
        return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, merkle.DIGEST_BYTES)

    def hash_rows(self, states: Any, rows: U64, salts: U8, before: int, last: bool) -> Any:
        check_portion(states, len(rows), before, last)
        states = states or [hashlib.sha256(merkle.LEAF_TAG + salt.tobytes()) for salt in salts]
        for state, column in zip(states, np.ascontiguousarray(rows.T).astype(">u8"), strict=True):
            state.update(column.tobytes())
        if not last:
            return states
        return np.frombuffer(b"".join(s.digest() for s in states), dtype=np.uint8).reshape(-1, merkle.DIGEST_BYTES)

    def merkle_levels(self, leaves: U8) -> list[U8]:
        return merkle.levels_from_leaves(leaves)

    # ---- folds and products --------------------------------------------------------------------------------------

    def count(self, arrays: Sequence[I64], first: int, counts: I64) -> None:
        for x in arrays:
            index = x.reshape(-1).astype(np.uint64) - np.uint64(first % 2**64)  # modulo 2^64: below `first` is large
            counts += np.bincount(index[index < len(counts)].astype(np.int64), minlength=len(counts))

    def fold_axis(self, x: I64 | U64, w: U64) -> U64:
        f = self.field
        weights = w[:, None, :, None]
        if x.ndim == 4:
            terms = f.kmul(x.astype(np.uint64, copy=False), weights)
        else:
            terms = f.kmulf(weights, self._to_field(x))
        return f.sum(np.moveaxis(terms, 2, -1))

    def weight(self, x: I64, u: U64, v: U64) -> U64:
        f = self.field
        return f.kmulf(f.kmul(u[:, :, None], v[:, None, :]), f.embed(x)).reshape(2, -1)

    def kmul(self, a: U64, b: U64) -> U64:
        return self.field.kmul(a, b)

    def kdot(self, a: U64, b: U64) -> Ext:
        return Ext.from_array(self.field, self.field.kdot(a, b))

    def eq_table(self, point: U64) -> U64:
        return self.field.eq_table(point)

    def eq_suffixes(self, point: U64) -> list[U64]:
        m = point.shape[1]
        return [self.field.eq_table(point[:, m - k :]) for k in range(m + 1)]

    def product_round(self, a: U64, b: U64) -> Round:
        (a1, a2), (b1, b2) = self._at_one_two(*_halves(a)), self._at_one_two(*_halves(b))
        return self.kdot(a1, b1), self.kdot(a2, b2)

    def product_rounds(
        self, tables: Sequence[tuple[U64, U64]], coefs: Sequence[Ext], fold: Sequence[bool], r: Ext | None
    ) -> tuple[list[tuple[U64, U64]], Round]:
        out, g1, g2 = [], self.field.zero, self.field.zero
        for (a, b), coef, folded in zip(tables, coefs, fold, strict=True):
            if folded and r is not None:
                a, b = self.fold_top(a, r), self.fold_top(b, r)
            if a.shape[1] > 1:
                one, two = self.product_round(a, b)
                g1, g2 = g1 + coef * one, g2 + coef * two
            out.append((a, b))
        return out, (g1, g2)

    def batch_rounds(self, summands: Sequence[Summand], first: Round, passed: Ext, waiting: Ext, talk: Talk) -> list[tuple[Ext, Ext]]:
        pairs, coefs, left = [(x.a, x.b) for x in summands], [x.coef for x in summands], [x.waiting for x in summands]
        g1, g2 = first
        while talk.rounds:
            r = talk.say(g1, g2)
            passed, g1, g2 = passed * (1 - r), self.field.zero, self.field.zero
            for k, x in enumerate(summands):
                if left[k] == 0:
                    pairs[k] = self.fold_top(pairs[k][0], r), self.fold_top(pairs[k][1], r)
                elif left[k] == 1:
                    waiting, coefs[k] = waiting - x.coef * x.total, x.coef * passed
                left[k] = max(0, left[k] - 1)
                if left[k] == 0 and pairs[k][0].shape[1] > 1:
                    one, two = self.product_round(*pairs[k])
                    g1, g2 = g1 + coefs[k] * one, g2 + coefs[k] * two
            g2 = g2 - passed * waiting
        return [(Ext.from_array(self.field, a), Ext.from_array(self.field, b)) for a, b in pairs]

    def fold_top(self, a: U64, r: Ext) -> U64:
        half = a.shape[1] // 2
        low, high = a[:, :half], a[:, half:]
        return self.field.add(low, self.field.kscale(self.field.sub(high, low), r))

    def lincombs(self, runs: Sequence[Run], out: U64) -> None:
        f = self.field
        for run in runs:
            part = out[:, run.start : run.end]
            part[...] = run.const.array()[:, None]
            for column, coef in zip(run.columns, run.coefs, strict=True):
                part[...] = f.add(part, f.kmulf(coef.array()[:, None], f.embed(column)))

    def outer(self, vectors: Sequence[U64]) -> U64:
        return reduce(lambda u, v: self.field.kmul(u[:, :, None], v[:, None, :]).reshape(2, -1), vectors)

    def outer_sums(self, sums: Sequence[OuterSum]) -> None:
        f = self.field
        for x in sums:
            n0, n1 = x.sizes
            total = np.zeros((2, n0, n1), dtype=np.uint64)
            for u, v in zip(x.us, x.vs, strict=True):
                total = f.add(total, f.kmul(u[:, :, None], v[:, None, :]))
            i, j, piece = np.arange(n0)[:, None], np.arange(n1)[None, :], x.piece or n1
            x.out[:, i * piece + j // piece * x.apart + j % piece] = total

    # ---- the tree of fractions -----------------------------------------------------------------------------------

    def fraction_layer(self, p: Tiled, q: Tiled) -> tuple[Tiled, Tiled]:
        f = self.field
        (p0, p1), (q0, q1) = _halves(p.dense().cells), _halves(q.dense().cells)
        return Tiled(f.add(f.kmul(p0, q1), f.kmul(p1, q0))), Tiled(f.kmul(q0, q1))

    def fraction_round(self, tables: Sequence[Tiled], low: U64, high: U64, lam: Ext) -> tuple[list[Tiled], Round]:
        f = self.field
        if not lam:
            raise ZeroDivisionError("fraction_round with lam = 0")
        eq = f.kmul(high[:, :, None], low[:, None, :]).reshape(2, -1)
        values = [self._at_one_two(*_halves(t.dense().cells)) for t in tables]
        out = []
        for a, b, c, d in zip(*values, strict=True):  # p0, p1, q0, q1 at X = 1, then at X = 2
            cross = f.add(f.kmul(a, d), f.kmul(b, c))
            out.append(self.kdot(eq, f.add(f.kscale(cross, lam), f.kmul(c, d))))
        return list(tables), (out[0], out[1])

    def fraction_fold_round(self, tables: Sequence[Tiled], r: Ext, low: U64, high: U64, lam: Ext) -> tuple[list[Tiled], Round]:
        folded = [Tiled(self.fold_top(t.dense().cells, r)) for t in tables]
        return self.fraction_round(folded, low, high, lam)

    def fraction_rounds(self, tables: Sequence[Tiled], first: Round | None, point: U64, lam: Ext, talk: Talk) -> list[Ext]:
        suffixes, one, g = self.eq_suffixes(point), self.field.lift(np.ones(1, dtype=np.uint64)), first
        while talk.rounds:
            if g is None:
                g = self.fraction_round(tables, suffixes[talk.rounds - 1], one, lam)[1]
            r, g = talk.say(*g), None
            tables = [Tiled(self.fold_top(t.cells, r)) for t in tables]
        return [Ext.from_array(self.field, t.cells) for t in tables]

    # ---- opening -------------------------------------------------------------------------------------------------

    def open_sums(self, f: U64, rows: I64, w: U64) -> list[Ext]:
        points = [self._at_zero_one_infinity(self._at_zero_one_infinity(x)) for x in (self._row_groups(f, rows), w.reshape(2, 2, 2, -1))]
        return [self.kdot(*(x[:, i, j] for x in points)) for i in range(3) for j in range(3)]

    def open_fold(self, f: U64, rows: I64, w: U64, eq: U64, out_f: U64, out_w: U64) -> None:
        for table, out in ((self._row_groups(f, rows), out_f), (w, out_w)):
            out[...] = self.fold_axis(table.reshape(2, 1, 4, -1), eq).reshape(2, -1)

    # ---- helpers -------------------------------------------------------------------------------------------------

    def _to_field(self, x: I64 | U64) -> U64:
        return x if x.dtype == np.uint64 else self.field.embed(x.astype(np.int64, copy=False))  # type: ignore[return-value]

    def _at_one_two(self, low: U64, high: U64) -> tuple[U64, U64]:
        """Values of low + X·(high - low) at X = 1 and X = 2."""
        return high, self.field.add(high, self.field.sub(high, low))

    def _at_zero_one_infinity(self, x: U64) -> U64:
        """Values of low + X·(high - low) at X = 0 and 1, and its coefficient: (2, 2, …, N) to (2, …, 3, N)."""
        return np.stack([x[:, 0], x[:, 1], self.field.sub(x[:, 1], x[:, 0])], axis=-2)

    def _row_groups(self, f: U64, rows: I64) -> U64:
        """Rows of F (R, ell) at (4, n) as K (2, 2, 2, n·ell), zero where the index is -1."""
        found = f[rows]
        found[rows < 0] = 0
        return self.field.lift(found.reshape(2, 2, -1))


def _halves(a: U64) -> tuple[U64, U64]:
    half = a.shape[1] // 2
    return a[:, :half], a[:, half:]
