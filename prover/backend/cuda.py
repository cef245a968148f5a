"""The CUDA backend: base.py's methods on the kernels of prover/kernels compiled by NVRTC, launched through CuPy; Goldilocks.

Arrays are CuPy arrays and stay on the device; a sum ends in 32 bytes that the kernel writes to the host's memory (launch.h). Never run
on a real device so far: tests run it, with CuPy and the code that NVRTC makes, on a card that is not there (tests/support/card,
docs/decisions/0036-cupy-on-a-card-that-is-not-there.md).

Hand-over: launches and copies take microseconds, however little there is to do, so a table of at most `hand_over` entries that a
fold or a layer leaves is written to the host's memory, and a method whose arrays lie there is the CPU backend's. Of a sumcheck over
2^m entries only the first m - 12 rounds are the device's, each one launch per table group and one wait.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from protocol import merkle
from protocol.code import Code
from protocol.field import I64, U64, Ext
from protocol.layout import bits_of
from prover.backend.base import Round
from prover.backend.device import HAND_OVER, THREADS, check_shape, half_planes, planes, where_arrays_are
from prover.backend.device_plan import DevicePlan
from prover.backend.device_tree import DeviceTree
from prover.backend.host import check_portion, row_groups
from prover.backend.leaves import Place, Run, array_runs, embed_runs, run_words
from prover.backend.outer import OuterSum, tables

SCRATCH = 1 << 29  # bytes for transforms at a time: a strip of codewords and its coefficients
PADDED = 6  # axes of a table, as in Pad (prover/kernels/device.h)
COUNTED = 32  # integers a thread counts, so that it pays to keep counts in a block


def _portions(code: Code, rows: int) -> Iterator[slice]:
    """Rows that are transformed together."""
    at_once = max(1, SCRATCH // (8 * (code.ell + code.n)))
    for first in range(0, rows, at_once):
        yield slice(first, min(rows, first + at_once))


class CudaBackend(DeviceTree):
    """Backend over Goldilocks on the current device."""

    name = "cuda"

    def __init__(self, xp: Any, hand_over: int = HAND_OVER, threads: int = THREADS) -> None:
        super().__init__(xp, hand_over, threads)
        self._plans: dict[Code, DevicePlan] = {}
        self._ones = self.lift(xp.ones(1 << 12, dtype=np.uint64))
        self._tables_of: dict[int, tuple[Any, Any, tuple[int, ...]]] = {}  # what the last product round left here, and its addresses

    # ---- commitment ----------------------------------------------------------------------------------------------

    @where_arrays_are
    def encode(self, code: Code, messages: Any, rho: Any, out: Any = None) -> Any:
        plan = self._plan(code)
        messages, rho = self._words(messages), self._words(rho)
        rows = check_shape(messages, (-1, code.ell))[0]
        check_shape(rho, (rows, code.blinding))
        if out is None:
            out = self.xp.empty((rows, code.n), dtype=np.uint64)
        check_shape(self._on_device(out), (rows, code.n))
        if not out.flags.c_contiguous or out.dtype != np.uint64:
            raise ValueError("codewords need contiguous rows of 64-bit words")
        for part in _portions(code, rows):
            self._encode_rows(plan, messages[part], rho[part], out[part])
        return out

    def _plan(self, code: Code) -> DevicePlan:
        plan = self._plans.get(code)
        if plan is None:
            plan = self._plans[code] = DevicePlan(code, self.to_device)
        return plan

    def _coefficients(self, plan: DevicePlan, messages: Any) -> Any:
        """F (r, ell): coefficients, ell times too large, at bit-reversed places."""
        code, rows = plan.code, messages.shape[0]
        coefs = self.xp.empty(messages.shape, dtype=np.uint64)
        size, at, source = code.ell, plan.inverse.data.ptr + 64, messages.data.ptr  # after the eight words of the CPU's last levels
        for radix in plan.radices:
            q = size // radix
            if source == messages.data.ptr:
                self._call(f"vl_ntt_first{radix}", rows, q, source, coefs.data.ptr, at, q)
            else:
                self._call(f"vl_dif{radix}", rows * code.ell // size, q, source, at, q)
            at, size, source = at + 8 * (radix - 1) * q, q, coefs.data.ptr
        self._blocks("vl_ntt_inverse", rows * code.ell // size, source, coefs.data.ptr, at, size)
        return coefs

    def _forward(self, plan: DevicePlan, coefs: Any, rho: Any, size: int) -> tuple[Any, int]:
        """F (r, n), coset by coset: the forward transforms up to blocks of `size` words; and where the twiddles of these are."""
        code, rows = plan.code, coefs.shape[0]
        values, at = self.xp.empty((rows, code.n), dtype=np.uint64), plan.forward.data.ptr + 64 + 8 * (code.ell - size)
        words = (coefs.data.ptr, rho.data.ptr, values.data.ptr, at, plan.scale.data.ptr, plan.powers.data.ptr)
        self._blocks("vl_ntt_forward", rows * code.n // size, *words, code.ell, code.n // code.ell, code.blinding, size,
                     code.ell.bit_length() - 1)
        return values, at

    def _encode_rows(self, plan: DevicePlan, messages: Any, rho: Any, out: Any) -> None:
        code, rows, size = plan.code, messages.shape[0], plan.block
        cosets = code.n // code.ell
        values, at = self._forward(plan, self._coefficients(plan, messages), rho, size)
        if not plan.radices:
            self._call("vl_interleave", rows, code.n, values.data.ptr, out.data.ptr, code.ell, cosets)
        for left, radix in reversed(list(enumerate(plan.radices))):
            q, size = size, size * radix
            at -= 8 * (radix - 1) * q
            if left:
                self._call(f"vl_dit{radix}", rows * code.n // size, q, values.data.ptr, at, q)
            else:
                self._call(f"vl_ntt_last{radix}", rows, q * cosets, values.data.ptr, out.data.ptr, at, q, cosets)

    def columns(self, code: Code, messages: Any, rho: Any, positions: Any) -> Any:
        """Transforms end at blocks of 512 words, of which a column is a sum, so no codeword is there at any time."""
        plan, messages, rho = self._plan(code), self._words(messages), self._words(rho)
        rows, there = check_shape(messages, (-1, code.ell))[0], self._words(self.to_device(positions.astype(np.uint64)))
        check_shape(rho, (rows, code.blinding))
        out, size = self.xp.empty((rows, len(positions)), dtype=np.uint64), plan.column_block
        for part in _portions(code, rows):
            values, _ = self._forward(plan, self._coefficients(plan, messages[part]), rho[part], size)
            words = (values.data.ptr, out[part].data.ptr, plan.roots.data.ptr, there.data.ptr)
            self._call("vl_columns", len(values), len(positions), *words, code.ell, code.n // code.ell, size, len(positions))
        return self.to_host(out)

    def message_of(self, code: Code, coefs: Any) -> Any:
        return self.host.message_of(code, coefs)

    def coefficients(self, code: Code, message: Any, rho: Any) -> Any:
        return self.host.coefficients(code, message, rho)

    @where_arrays_are
    def hash_columns(self, codeword: Any, salts: Any) -> Any:
        return self.hash_rows(None, codeword, salts, 0, True)

    def hash_rows(self, states: Any, rows: Any, salts: Any, before: int, last: bool) -> Any:
        rows, salts = self._words(rows), self._contiguous(salts, np.uint8)
        count, n = rows.shape
        check_shape(salts, (n, merkle.DIGEST_BYTES))
        check_portion(states, count, before, last)
        tag = self._tag(merkle.LEAF_TAG)
        out = self.xp.empty((n, merkle.DIGEST_BYTES), dtype=np.uint8) if last else None
        if states is None and not last:
            states = self.xp.empty((8, n), dtype=np.uint32)
        ends = (0 if states is None else self._on_device(states).data.ptr, 0 if out is None else out.data.ptr)
        self._call("vl_hash_columns", 1, n, rows.data.ptr, salts.data.ptr, tag.data.ptr, *ends, count, before, n)
        return out if last else states

    @where_arrays_are
    def merkle_levels(self, leaves: Any) -> list[Any]:
        tag = self._tag(merkle.NODE_TAG)
        levels = [self._contiguous(leaves, np.uint8)]
        if leaves.shape[0] & (leaves.shape[0] - 1) or not len(leaves):
            raise ValueError(f"{leaves.shape[0]} leaves are not a power of two")
        while levels[-1].shape[0] > 1:
            if levels[-1].shape[0] <= self.hand_over // 4:  # towards the root: all levels go to the host
                return levels + self.host.merkle_levels(self.to_host(levels[-1]))[1:]
            out = self.xp.empty((levels[-1].shape[0] // 2, merkle.DIGEST_BYTES), dtype=np.uint8)
            self._call("vl_hash_pairs", 1, out.shape[0], levels[-1].data.ptr, tag.data.ptr, out.data.ptr)
            levels.append(out)
        return levels

    @functools.cache  # noqa: B019 - a backend lives as long as its process
    def _tag(self, tag: bytes) -> Any:
        return self.xp.asarray(np.frombuffer(tag, dtype=np.uint8))

    # ---- folds and products --------------------------------------------------------------------------------------

    @where_arrays_are
    def lift(self, x: Any) -> Any:
        if x.dtype == np.uint64:
            out = self.xp.zeros((2, *x.shape), dtype=np.uint64)
            out[0] = x
            return out
        x, words = self._integers(x)
        out = self.xp.empty((2, *x.shape), dtype=np.uint64)
        self._call("vl_lift", 1, x.size, *words, *planes(out))
        return out

    @where_arrays_are
    def embed(self, x: Any, out: Any = None) -> Any:
        x, words = self._integers(x)
        if out is None:
            out = self.xp.empty(x.shape, dtype=np.uint64)
        check_shape(self._on_device(out), tuple(x.shape))
        if not out.flags.c_contiguous or out.dtype != np.uint64:
            raise ValueError("field elements need contiguous words")
        self._call("vl_embed", 1, x.size, *words, out.data.ptr)
        return out

    def embed_runs(self, arrays: Sequence[Any], places: Sequence[Place], out: Any) -> None:
        if self._on_device(out).dtype != np.uint64 or not out.flags.c_contiguous:
            raise ValueError("field elements need contiguous words")
        held = [self._integers(x) for x in arrays]
        runs = self.to_device(embed_runs([words for _, words in held], [x.shape for x, _ in held], places, out.size))
        self._call("vl_embed_runs", 1, sum(x.size for x, _ in held), runs.data.ptr, out.data.ptr, len(held))

    @where_arrays_are
    def count(self, arrays: Sequence[Any], first: int, counts: Any) -> None:
        if self._on_device(counts).dtype != np.int64 or not counts.flags.c_contiguous:
            raise ValueError("counts need contiguous signed words")
        if counts.size >= 1 << 32:
            raise ValueError(f"a table of {counts.size} rows")
        held = [self._integers(x) for x in arrays]
        runs, total = self.to_device(array_runs([words for _, words in held], [x.size for x, _ in held])), sum(x.size for x, _ in held)
        blocks = min(self._sum_grid, -(-total // (COUNTED * self.threads)))
        words = (runs.data.ptr, counts.data.ptr, first & 2**64 - 1, counts.size, len(held))
        self._launch("vl_count", blocks, 1, total, words)

    @where_arrays_are
    def fold_axis(self, x: Any, w: Any) -> Any:
        kind = "k" if x.ndim == 4 else "f" if x.dtype == np.uint64 else "int"
        if kind == "int":
            x, read = self._integers(x)
        else:
            x = self._words(x)
            read = x.data.ptr, x[1].data.ptr if kind == "k" else 0
        outer, n, inner = x.shape[-3:]
        w = self._planes(w, n)
        wanted = self._sum_grid * self.threads // max(1, outer * (self.threads if inner == 1 else inner))
        parts = max(1, min(wanted, n // 64))  # as many as there are idle threads, each worth its launch
        size = -(-n // parts) if n else 1
        out = self.xp.empty((2, outer * parts, inner), dtype=np.uint64)
        words = (*read, *planes(w), *planes(out), n, inner, parts, size)
        if inner == 1:
            self._blocks(f"vl_fold_rows_{kind}", outer * parts, *words)
        else:
            self._call(f"vl_fold_part_{kind}", outer * parts, inner, *words)
        if parts == 1:
            return out
        if self._ones.shape[1] < parts:
            self._ones = self.lift(self.xp.ones(parts, dtype=np.uint64))
        return self.fold_axis(out.reshape(2, outer, parts, inner), self._ones[:, :parts])

    @where_arrays_are
    def weight(self, x: Any, u: Any, v: Any) -> Any:
        x, words = self._integers(x)
        n0, n1 = x.shape
        u, v = self._planes(u, n0), self._planes(v, n1)
        out = self.xp.empty((2, n0 * n1), dtype=np.uint64)
        self._call("vl_weight", n0, n1, *words, *planes(u), *planes(v), *planes(out), n1)
        return out

    @where_arrays_are
    def pad(self, a: Any) -> Any:
        axes = [(n, bits_of(n), stride // 8) for n, stride in zip(a.shape[:0:-1], a.strides[:0:-1], strict=True) if n != 1]
        bits = sum(bits for _, bits, _ in axes)
        if a.size == 2 << bits and a.flags.c_contiguous:
            return a.reshape(2, -1)
        if a.dtype != np.uint64 or len(axes) > PADDED:
            raise ValueError(f"a table of {a.dtype}, padded in {len(axes)} axes")
        out = self.xp.empty((2, 1 << bits), dtype=np.uint64)
        words = [word for axis in (*axes, *[(1, 0, 0)] * (PADDED - len(axes))) for word in axis]
        self._call("vl_pad", 1, 1 << bits, *planes(a), *planes(out), *words)
        return out

    @where_arrays_are
    def kmul(self, a: Any, b: Any) -> Any:
        check_shape(b, a.shape)
        a, b = self._words(a), self._words(b)
        out = self.xp.empty(a.shape, dtype=np.uint64)
        self._call("vl_kmul", 1, a.size // 2, *planes(a), *planes(b), *planes(out))
        return out

    @where_arrays_are
    def kdot(self, a: Any, b: Any) -> Ext:
        a = self._planes(a)
        b = self._planes(b, a.shape[1])
        return self._sum("vl_kdot", 1, 1, a.shape[1], (*planes(a), *planes(b)))[0]

    @where_arrays_are
    def product_round(self, a: Any, b: Any) -> Round:
        a = self._planes(a)
        b = self._planes(b, a.shape[1])
        g = self._sum("vl_product_round", 2, 1, a.shape[1] // 2, (*half_planes(a), *half_planes(b)))
        return g[0], g[1]

    def product_rounds(
        self, tables: Sequence[tuple[Any, Any]], coefs: Sequence[Ext], fold: Sequence[bool], r: Ext | None
    ) -> tuple[list[tuple[Any, Any]], Round]:
        """One launch for all pairs that lie here, and the CPU's call for those that lie on the host."""
        out, g = list(tables), (self.field.zero, self.field.zero)
        for compute, host in ((self.host.product_rounds, True), (self._product_rounds, False)):
            some = [k for k, pair in enumerate(tables) if isinstance(pair[0], np.ndarray) is host]
            if some:
                made, part = compute([tables[k] for k in some], [coefs[k] for k in some], [fold[k] for k in some], r)
                g = g[0] + part[0], g[1] + part[1]
                for k, pair in zip(some, made, strict=True):
                    out[k] = pair
        return out, g

    def _product_rounds(
        self, tables: Sequence[tuple[Any, Any]], coefs: Sequence[Ext], fold: Sequence[bool], r: Ext | None
    ) -> tuple[list[tuple[Any, Any]], Round]:
        known, self._tables_of = self._tables_of, {}
        rows, sizes = list[tuple[Any, Any, tuple[int, ...]]](), list[int]()
        for (a, b), folded in zip(tables, fold, strict=True):
            n = a.shape[1]
            size = n >> folded
            if size > 1 and size % 2 or size << folded != n:
                raise ValueError(f"a table of {n} entries has no halves")
            row = known.get(id(a))
            if row is None or row[0] is not a or row[1] is not b:
                a = self._planes(a)
                b = self._planes(b, n)
                row = a, b, (*planes(a), *planes(b))
            rows.append(row)
            sizes.append(size)
        room = self._pinned(2, 2 * sum(size for size in sizes if size <= self.hand_over))  # for all that goes to the host
        words, out, first, at = list[int](), [], 0, 0
        for (a, b, places), coef, folded, size in zip(rows, coefs, fold, sizes, strict=True):
            to = places  # in place
            if size <= self.hand_over:
                made = room[:, at : at + size], room[:, at + size : at + 2 * size]
                at, to = at + 2 * size, (*planes(made[0]), *planes(made[1]))
            else:
                made = (a[:, :size], b[:, :size]) if folded else (a, b)
                self._tables_of[id(made[0])] = *made, places
            words += (*places, *to, size, int(folded), coef.c0, coef.c1, first)
            out.append(made)
            first += max(1, size // 2)
        held = self.to_device(np.array(words, dtype=np.uint64))
        g = self._sum("vl_product_pairs", 2, 1, first, (held.data.ptr,), *((r.c0, r.c1) if r else (0, 0)), len(rows))
        return out, (g[0], g[1])

    @where_arrays_are
    def fold_top(self, a: Any, r: Ext) -> Any:
        a = self._planes(a)
        halves, out = half_planes(a), self._place(a.shape[1] // 2)
        self._call("vl_fold_top", 1, out.shape[1], *halves, *planes(out), r.c0, r.c1)
        if isinstance(out, np.ndarray):
            self._wait()
        return out

    @where_arrays_are
    def lincombs(self, runs: Sequence[Run], out: Any) -> None:
        held, out = list[Any](), self._result_of(out, out.shape[1])

        def column(x: Any, n: int) -> tuple[int, int]:
            array, words = self._integers(x)
            held.append(array)
            check_shape(array, (n,))
            return words

        table, total = run_words(runs, out.shape[1], column)
        there = self.to_device(table)
        self._call("vl_lincombs", 1, total, there.data.ptr, *planes(out), len(runs))

    def outer_sums(self, sums: Sequence[OuterSum]) -> None:
        """Vectors on the host, and the tables, go over in one copy."""
        if not sums or isinstance(sums[0].out, np.ndarray):
            self.host.outer_sums(sums)
            return
        host = {id(a): a for x in sums for a in (*x.us, *x.vs) if isinstance(a, np.ndarray)}
        vectors = self.to_device(np.concatenate([np.zeros(0, dtype=np.uint64), *(a.reshape(-1) for a in host.values())]))
        places, copies, at = dict[int, tuple[int, int]](), list[Any](), int(vectors.data.ptr)
        for key, a in host.items():
            places[key], at = (at, at + 8 * a.shape[1]), at + 16 * a.shape[1]

        def there(a: Any) -> tuple[int, int]:
            found = places.get(id(a))
            if found is None:
                copies.append(self._planes(a))  # mostly the array itself
                found = places[id(a)] = planes(copies[-1])
            return found

        items, terms, entries, products = tables(sums, there)
        both = self.to_device(np.concatenate([items, terms]))
        self._call("vl_outer_sums", 1, entries, both.data.ptr, both.data.ptr + items.nbytes, len(items) // 10, products)

    # ---- opening -------------------------------------------------------------------------------------------------

    def open_sums(self, f: Any, rows: I64, w: Any) -> list[Ext]:
        words, extents, _held = self._row_groups(f, rows, w)
        return self._sum("vl_open_sums", 9, *extents, words)

    def open_fold(self, f: Any, rows: I64, w: Any, eq: U64, out_f: Any, out_w: Any) -> None:
        words, (n, ell), _held = self._row_groups(f, rows, w)
        for out in (out_f, out_w):
            self._result_of(out, n * ell)
        check_shape(eq, (2, 4))
        self._call("vl_open_fold", n, ell, *words, *planes(out_f), *planes(out_w), *eq.T.reshape(-1).tolist())

    def _row_groups(self, f: Any, rows: I64, w: Any) -> tuple[tuple[int, ...], tuple[int, int], Any]:
        """The kernels' words of rows F (R, ell), indices (4, n) and weights K (2, 4·n·ell); (n, ell); what the words are about."""
        f = self._words(f)
        count, ell = check_shape(f, (-1, -1))
        there, w, n = self.to_device(row_groups(rows, count)), self._planes(w, rows.size * ell), rows.shape[1]
        return (f.data.ptr, *planes(w), there.data.ptr, n, ell), (n, ell), (f, there, w)
