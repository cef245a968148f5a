"""The CPU backend: base.py's methods on the compiled kernels (prover/kernels), Goldilocks only, bit-equal to reference.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from math import prod
from typing import Any

import numpy as np

from protocol import merkle
from protocol.code import Code
from protocol.field import I64, U64, Ext
from prover.backend import coset_plan
from prover.backend.base import U8, Round
from prover.backend.calls import AnyArray
from prover.backend.calls import halves as _halves
from prover.backend.calls import planes as _planes
from prover.backend.calls import shape as _shape
from prover.backend.calls import words as _words
from prover.backend.calls import written as _written
from prover.backend.field import address
from prover.backend.field import integers as _integers
from prover.backend.field import planes as _at
from prover.backend.fractions import Fractions
from prover.backend.host import check_portion, row_groups
from prover.backend.integers import Integers
from prover.backend.leaves import Place, array_runs, embed_runs
from prover.backend.outer import OuterSum, tables
from prover.backend.plan import Plan, make_plan
from prover.backend.talk import Summand, Talk
from prover.backend.tiled import aligned

_LEAF_TAG, _NODE_TAG = (np.array([*tag], dtype=np.uint8) for tag in (merkle.LEAF_TAG, merkle.NODE_TAG))


class CpuBackend(Fractions):
    """Backend over Goldilocks; `level` picks a library other than this machine's (tests)."""

    name = "cpu"

    def __init__(self, level: str | None = None) -> None:
        super().__init__(level)
        self._plans: dict[tuple[int, int], Plan] = {}
        self._coset_plans: dict[int, coset_plan.CosetPlan] = {}

    # ---- commitment ----------------------------------------------------------------------------------------------

    def encode(self, code: Code, messages: U64, rho: U64, out: U64 | None = None) -> U64:
        plan = self._plan(code)
        messages, rho = _words(messages), _words(rho)
        rows = _shape(messages, (-1, code.ell))[0]
        _shape(rho, (rows, code.blinding))
        if out is None:
            out = aligned(rows, code.n)
        _shape(out, (rows, code.n))
        if out.dtype != np.uint64 or not out.flags.c_contiguous:
            raise ValueError("codewords need contiguous rows of 64-bit words")
        words = [address(x) for x in (messages, rho, out)]
        if code.n == 4 * code.ell and code.ell >= coset_plan.SMALLEST and words[2] % 64 == 0 and hasattr(self._library, "vl_encode_cosets"):
            cosets = self._coset_plan(code)
            words += [address(x) for x in (cosets.inverse, cosets.forward, plan.powers, plan.order)]
            self._call("vl_encode_cosets", rows, 1, *words, code.ell, code.blinding)
        else:
            words += [address(x) for x in (plan.inverse, plan.forward, plan.scale, plan.powers, plan.order)]
            self._call("vl_encode", rows, 1, *words, code.ell, code.n // code.ell, code.blinding)
        return out

    def _plan(self, code: Code) -> Plan:
        if (code.ell, code.n) not in self._plans:
            self._plans[code.ell, code.n] = make_plan(replace(code, field=self.field))
        return self._plans[code.ell, code.n]

    def _coset_plan(self, code: Code) -> coset_plan.CosetPlan:
        if code.ell not in self._coset_plans:
            self._coset_plans[code.ell] = coset_plan.make_coset_plan(replace(code, field=self.field), self._library.vl_lanes())
        return self._coset_plans[code.ell]

    def message_of(self, code: Code, coefs: U64) -> U64:
        plan, count = self._plan(code), -(-coefs.shape[-1] // code.ell)
        padded = np.zeros((*coefs.shape[:-1], count, code.ell), dtype=np.uint64)
        padded.reshape(*coefs.shape[:-1], -1)[..., : coefs.shape[-1]] = coefs
        total = self.field.sum(np.ascontiguousarray(np.swapaxes(padded, -1, -2)))[..., plan.order]
        return self._transform(total, plan.forward, False)

    def coefficients(self, code: Code, message: U64, rho: U64) -> U64:
        plan = self._plan(code)
        low = self._transform(message.copy(), plan.inverse, True)[..., plan.order]
        low = self.field.mul(low, np.asarray(np.uint64(pow(code.ell, -1, self.field.p))))
        out = np.concatenate([low, rho], axis=-1)
        out[..., : code.blinding] = self.field.sub(out[..., : code.blinding], rho)
        return out

    def _transform(self, rows: U64, table: U64, inverse: bool) -> U64:
        """In place, (…, ell): the inverse one leaves entries times ell in bit-reversed order, the forward one takes them so."""
        rows = _words(rows)
        ell = rows.shape[-1]
        self._call("vl_transform", rows.size // ell, 1, address(rows), address(table), ell, int(inverse))
        return rows

    def hash_columns(self, codeword: U64, salts: U8) -> U8:
        digests: U8 = self.hash_rows(None, codeword, salts, 0, True)
        return digests

    def hash_rows(self, states: Any, rows: U64, salts: U8, before: int, last: bool) -> Any:
        rows, salts = _words(rows), np.ascontiguousarray(salts, dtype=np.uint8)
        count, n = rows.shape
        _shape(salts, (n, merkle.DIGEST_BYTES))
        check_portion(states, count, before, last)
        out = np.empty((n, merkle.DIGEST_BYTES) if last else (0,), dtype=np.uint8)
        if states is None:
            states = np.empty((0 if last else 8, n), dtype=np.uint32)
        words = [address(x) for x in (rows, salts, _LEAF_TAG, states)]
        self._call("vl_hash_columns", 1, n, *words, address(out) if last else 0, count, before, n)
        return out if last else states

    def merkle_levels(self, leaves: U8) -> list[U8]:
        n = leaves.shape[0]
        if not n or n & (n - 1):
            raise ValueError(f"{n} leaves are not a power of two")
        leaves, above = np.ascontiguousarray(leaves, dtype=np.uint8), np.empty((n - 1, merkle.DIGEST_BYTES), dtype=np.uint8)
        self._call("vl_hash_levels", 1, n // 2, address(leaves), address(_NODE_TAG), address(above))
        ends = accumulate(n >> k for k in range(1, n.bit_length()))
        return [leaves, *(above[end - (n >> k) : end] for k, end in enumerate(ends, 1))]

    # ---- folds and products --------------------------------------------------------------------------------------

    def embed(self, x: Integers, out: U64 | None = None) -> U64:
        x = np.ascontiguousarray(x)
        if out is None:
            out = np.empty(x.shape, dtype=np.uint64)
        _shape(out, x.shape)
        if out.dtype != np.uint64 or not out.flags.c_contiguous:
            raise ValueError("field elements need contiguous words")
        self._call("vl_embed", 1, x.size, *_integers(x), address(out))
        return out

    def embed_runs(self, arrays: Sequence[Integers], places: Sequence[Place], out: U64) -> None:
        if out.dtype != np.uint64 or not out.flags.c_contiguous:
            raise ValueError("field elements need contiguous words")
        held = [np.ascontiguousarray(x) for x in arrays]
        runs = embed_runs([_integers(x) for x in held], [x.shape for x in held], places, out.size)
        self._call("vl_embed_runs", len(held), 1, address(runs), address(out), len(held))

    def lift(self, x: Integers | U64) -> U64:
        if x.dtype == np.uint64:
            return self.field.lift(x)  # type: ignore[arg-type]
        x = np.ascontiguousarray(x)
        out = np.empty((2, *x.shape), dtype=np.uint64)
        self._call("vl_lift", 1, x.size, *_integers(x), *_at(out))
        return out

    def count(self, arrays: Sequence[Integers], first: int, counts: I64) -> None:
        if counts.dtype != np.int64 or not counts.flags.c_contiguous:
            raise ValueError("counts need contiguous signed words")
        held = [np.ascontiguousarray(x) for x in arrays]
        runs = array_runs([_integers(x) for x in held], [x.size for x in held])
        self._call("vl_count", len(held), 1, address(runs), address(counts), first & 2**64 - 1, counts.size, len(held))

    def fold_axis(self, x: Integers | U64, w: U64) -> U64:
        kind = "k" if x.ndim == 4 else "f" if x.dtype == np.uint64 else "int"
        held: AnyArray = np.ascontiguousarray(x, dtype=x.dtype if kind == "int" else np.uint64)
        outer, n, inner = held.shape[-3:]
        w = _planes(w, n)
        read = _integers(held) if kind == "int" else (address(held), address(held[1]) if kind == "k" else 0)
        out = np.empty((2, outer, inner), dtype=np.uint64)
        words = (*read, *_at(w), *_at(out), n)
        if inner == 1:
            self._call(f"vl_fold_last_{kind}", outer, 1, *words)
        else:
            self._call(f"vl_fold_axis_{kind}", outer, inner, *words, inner)
        return out

    def weight(self, x: Integers, u: U64, v: U64) -> U64:
        x = np.ascontiguousarray(x)
        n0, n1 = x.shape
        u, v = _planes(u, n0), _planes(v, n1)
        out = np.empty((2, n0 * n1), dtype=np.uint64)
        self._call("vl_weight", n0, n1, *_integers(x), *_at(u), *_at(v), *_at(out), n1)
        return out

    def kmul(self, a: U64, b: U64) -> U64:
        return self.field.kmul(a, b)

    def kdot(self, a: U64, b: U64) -> Ext:
        a = _planes(a)
        b = _planes(b, a.shape[1])
        return self._sum("vl_kdot", 1, 1, a.shape[1], (*_at(a), *_at(b)))[0]

    def eq_table(self, point: U64) -> U64:
        return self.field.eq_table(point)

    def eq_suffixes(self, point: U64) -> list[U64]:
        point = _words(point)
        count = _shape(point, (2, -1))[1]
        out = np.empty((2, 2 << count), dtype=np.uint64)  # the table of k variables begins at entry 2^k
        out[:, 1] = 1, 0
        self._call("vl_eq_suffixes", count, 1, *_at(point), *_at(out))
        return [out[:, 1 << k : 2 << k] for k in range(count + 1)]

    def product_round(self, a: U64, b: U64) -> Round:
        a = _planes(a)
        b = _planes(b, a.shape[1])
        g = self._sum("vl_product_round", 2, 1, a.shape[1] // 2, (*_halves(a), *_halves(b)))
        return g[0], g[1]

    def product_rounds(
        self, tables: Sequence[tuple[U64, U64]], coefs: Sequence[Ext], fold: Sequence[bool], r: Ext | None
    ) -> tuple[list[tuple[U64, U64]], Round]:
        words, out = [], []
        for (a, b), coef, folded in zip(tables, coefs, fold, strict=True):
            a = _planes(a)
            b = _planes(b, a.shape[1])
            size = a.shape[1] // 2 if folded else a.shape[1]
            if size > 1 and size % 2 or size << folded != a.shape[1]:
                raise ValueError(f"a table of {a.shape[1]} entries has no halves")
            words += [*_at(a), *_at(b), size, int(folded), coef.c0, coef.c1]
            out.append((a[:, :size], b[:, :size]))
        items = np.array(words, dtype=np.uint64)
        g = self._sum("vl_product_rounds", 2, len(tables), 1, (address(items),), *((r.c0, r.c1) if r else (0, 0)))
        return out, (g[0], g[1])

    def batch_rounds(self, summands: Sequence[Summand], first: Round, passed: Ext, waiting: Ext, talk: Talk) -> list[tuple[Ext, Ext]]:
        items, held = [], list[tuple[U64, U64]]()
        for x in summands:
            size = 1 << (talk.rounds - x.waiting)
            held.append((_planes(x.a, size), _planes(x.b, size)))
            items += [*_at(held[-1][0]), *_at(held[-1][1]), size, x.waiting, x.coef.c0, x.coef.c1, x.total.c0, x.total.c1]
        table = np.array(items, dtype=np.uint64)
        self._talk("vl_batch_rounds", talk, first, address(table), len(summands), passed.c0, passed.c1, waiting.c0, waiting.c1)
        return [(Ext(*a[:, 0].tolist(), self.field), Ext(*b[:, 0].tolist(), self.field)) for a, b in held]

    def fold_top(self, a: U64, r: Ext) -> U64:
        a = _planes(a)
        out = np.empty((2, a.shape[1] // 2), dtype=np.uint64)
        self._call("vl_fold_top", 1, out.shape[1], *_halves(a), *_at(out), r.c0, r.c1)
        return out

    def outer(self, vectors: Sequence[U64]) -> U64:
        held = [_planes(v) for v in vectors]
        if len(held) == 1:
            return held[0]
        out = np.empty((2, prod(v.shape[1] for v in held)), dtype=np.uint64)
        factors = np.array([(*_at(v), v.shape[1]) for v in held], dtype=np.uint64)
        self._call("vl_outer", len(held), 1, address(factors), *_at(out))
        return out

    def outer_sums(self, sums: Sequence[OuterSum]) -> None:
        held: list[U64] = []  # copies of vectors without contiguous planes, until the kernel has run

        def planes(a: U64) -> tuple[int, int]:
            held.append(_planes(a))
            return _at(held[-1])

        items, terms, entries, products = tables(sums, planes)
        self._call("vl_outer_sums", entries, 1, address(items), address(terms), len(items) // 10, products)

    # ---- opening -------------------------------------------------------------------------------------------------

    def open_sums(self, f: U64, rows: I64, w: U64) -> list[Ext]:
        words, extents, _held = _row_groups(f, rows, w)
        return self._sum("vl_open_sums", 9, *extents, words)

    def open_fold(self, f: U64, rows: I64, w: U64, eq: U64, out_f: U64, out_w: U64) -> None:
        words, (n, ell), _held = _row_groups(f, rows, w)
        for out in (out_f, out_w):
            _written(out, n * ell)
        _shape(eq, (2, 4))
        self._call("vl_open_fold", n, ell, *words, *_at(out_f), *_at(out_w), *eq.T.reshape(-1).tolist())


def _row_groups(f: U64, rows: I64, w: U64) -> tuple[tuple[int, ...], tuple[int, int], Any]:
    """The kernels' words of rows F (R, ell), indices (4, n) and weights K (2, 4·n·ell); (n, ell); what the words are about."""
    f = _words(f)
    count, ell = _shape(f, (-1, -1))
    rows, w = row_groups(rows, count), _planes(w, rows.size * ell)
    n = rows.shape[1]
    return (address(f), *_at(w), address(rows), n, ell), (n, ell), (f, rows, w)
