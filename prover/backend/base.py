"""The array interface through which the prover computes; one implementation per device, all bit-equal.

Arrays are those of the module `xp` (NumPy, or CuPy where they lie on a GPU). What a task is given and what goes into its transcript
is on the host and moved by `to_device` and `to_host`; points, row indices and weights of fractions may be NumPy arrays anywhere.
Shapes: F arrays u64, canonical; K arrays two planes (2, …) u64; integer tensors of any width, which kernels read as they are
(integers.py): uint64 is F, never an integer. Arguments are contiguous or are copied; results are new contiguous arrays unless said
otherwise. `reference.py` defines every method in NumPy for any field, `cpu.py` and `cuda.py` run the kernels of prover/kernels.
Callers: prover/commitment and prover/argument.

A round method returns a polynomial's values (g(1), g(2)) at X = 1 and X = 2; the top (most significant) variable of a
table of 2m entries is the choice between its halves [0, m) and [m, 2m).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from protocol.code import Code
from protocol.field import I64, U64, Ext, Field
from prover.backend.integers import Integers
from prover.backend.leaves import Place, Run
from prover.backend.outer import OuterSum
from prover.backend.talk import Summand, Talk
from prover.backend.tiled import Tiled

U8 = npt.NDArray[np.uint8]
Round = tuple[Ext, Ext]


class Backend(Protocol):
    """What a device must offer."""

    field: Field
    name: str
    xp: Any
    memory: int  # bytes that this process may use where the backend computes
    kept_bytes: int  # a codeword of at most so many bytes is kept in memory (prover/commitment); weights of an opening have an eighth
    strip_bytes: int  # of codewords made at a time

    def to_device(self, a: Any) -> Any:
        """A host array as an array of `xp`; one of `xp` as it is."""

    def to_host(self, a: Any) -> Any:
        """The NumPy array of an array of `xp`; a NumPy array as it is."""

    def release(self) -> None:
        """A phase begins whose arrays are other ones: what the last one left free may go back to the system."""

    def embed(self, x: Integers, out: U64 | None = None) -> U64:
        """Integers to F, any shape, into a contiguous `out` if given."""

    def embed_runs(self, arrays: Sequence[Integers], places: Sequence[Place], out: U64) -> None:
        """Each array into F at its place in `out` (N,)."""

    def lift(self, x: Integers | U64) -> U64:
        """Integers or F (…) to K (2, …)."""

    def encode(self, code: Code, messages: U64, rho: U64, out: U64 | None = None) -> U64:
        """F (R, ell) and blinding F (R, B) to codewords F (R, n), `out` if given, as protocol.code.Code.encode."""

    def columns(self, code: Code, messages: U64, rho: U64, positions: I64) -> U64:
        """F (R, k), on the host: the codewords that encode makes of these, at k positions (on the host); nothing as large as a codeword
        is kept meanwhile."""

    def message_of(self, code: Code, coefs: U64) -> U64:
        """Coefficients F (…, length) to the message (…, ell), on the host, as protocol.code.Code.message_of."""

    def coefficients(self, code: Code, message: U64, rho: U64) -> U64:
        """Message F (…, ell) and blinding F (…, B) to coefficients (…, ell + B), on the host, as protocol.code.Code.coefficients."""

    def hash_columns(self, codeword: U64, salts: U8) -> U8:
        """Merkle leaf digests (n, 32) of the columns of F (R, n) under salts (n, 32), as protocol.merkle."""

    def hash_rows(self, states: Any, rows: U64, salts: U8, before: int, last: bool) -> Any:
        """hash_columns in portions: takes in F (r, n), which follow `before` rows, and returns the columns' states (opaque, changed
        in place; None at first), or their digests (n, 32) if these rows are the last. `before`, and r unless last, are multiples
        of 8."""

    def merkle_levels(self, leaves: U8) -> list[U8]:
        """All tree levels from leaves (n, 32), root (1, 32) last."""

    def count(self, arrays: Sequence[Integers], first: int, counts: I64) -> None:
        """In place counts[v − first] += 1 for each entry v of the arrays; entries without a place are left out."""

    def fold_axis(self, x: Integers | U64, w: U64) -> U64:
        """Σ_i w_i·x[…, i, …]: x integers or F (outer, n, inner) or K (2, outer, n, inner); w K(2, n); K (2, outer, inner)."""

    def weight(self, x: Integers, u: U64, v: U64) -> U64:
        """x_ij·u_i·v_j: integers (n0, n1), K(2, n0), K(2, n1) to K(2, n0·n1)."""

    def pad(self, a: U64) -> U64:
        """K (2, …) in any order, each axis padded with zeros to a power of two, flattened: K (2, 2^k)."""

    def kmul(self, a: U64, b: U64) -> U64:
        """Elementwise product over K."""

    def kdot(self, a: U64, b: U64) -> Ext:
        """Σ a_i·b_i over K(2, N)."""

    def eq_table(self, point: U64) -> U64:
        """eq(point, ·): K(2, m) to K(2, 2^m), first variable most significant."""

    def eq_suffixes(self, point: U64) -> list[U64]:
        """eq_table of the last k variables for k = 0 … m (the last one is eq_table(point)), for rounds that factor eq out."""

    def product_round(self, a: U64, b: U64) -> Round:
        """Σ_x A(X, x)·B(X, x) for K(2, 2m) tables."""

    def product_rounds(
        self, tables: Sequence[tuple[U64, U64]], coefs: Sequence[Ext], fold: Sequence[bool], r: Ext | None
    ) -> tuple[list[tuple[U64, U64]], Round]:
        """fold_top by r of both tables of each pair (A, B) with its flag set, then Σ coefs·product_round over the pairs of at least
        two entries. The results may lie where the tables were, whose cells are lost."""

    def batch_rounds(self, summands: Sequence[Summand], first: Round, passed: Ext, waiting: Ext, talk: Talk) -> list[tuple[Ext, Ext]]:
        """All rounds that a batch of products has left, whose tables lie on the host; `first` is the first's polynomial: Σ
        coef·product_round over the pairs that run, and (1 − X)·passed·waiting, passed being Π(1 − r) so far and waiting Σ coef·total
        over those that do not run yet; one that begins has coef·passed for coef. The values of A and B at the end; the tables' cells
        are lost."""

    def fold_top(self, a: U64, r: Ext) -> U64:
        """Fix the top variable to r: K(2, 2m) to K(2, m)."""

    def lincombs(self, runs: Sequence[Run], out: U64) -> None:
        """Write these runs of leaves into a table K(2, N)."""

    def fingerprints(self, runs: Sequence[Run], q: Tiled) -> Tiled:
        """q while leaves are written, with these runs in it: their tiles are no longer uniform, and may be narrow."""

    def fraction_layer(self, p: Tiled, q: Tiled) -> tuple[Tiled, Tiled]:
        """Add fractions of the two halves: p0·q1 + p1·q0 and q0·q1, 2m entries to m."""

    def fraction_layers(self, p: Tiled, q: Tiled) -> list[tuple[Tiled, Tiled]]:
        """fraction_layer again and again: all layers above a table of 2^k entries, the root's last."""

    def fraction_round(self, tables: Sequence[Tiled], low: U64, high: U64, lam: Ext) -> tuple[list[Tiled], Round]:
        """Σ_x eq[x]·(lam·(p0 q1 + p1 q0) + q0 q1)(X, x) for tables (p0, p1, q0, q1) of 2h entries; eq = high ⊗ low with
        low K(2, min(h, TILE)) that sums to 1 and high K(2, h / low). lam must not be 0. A level's first round; the tables that it
        returns are for the others."""

    def fraction_fold_round(self, tables: Sequence[Tiled], r: Ext, low: U64, high: U64, lam: Ext) -> tuple[list[Tiled], Round]:
        """fold_top of four tables of 4h entries by r, then fraction_round on them, in one pass over memory. The tables are those of
        the round before, with the same lam, and the same low if its tiles were whole; the results may lie where they were."""

    def fraction_rounds(self, tables: Sequence[Tiled], first: Round | None, point: U64, lam: Ext, talk: Talk) -> list[Ext]:
        """All rounds that a level has left, on four tables of 2^rounds entries on the host without tiles: the values at the end. `first`
        is the first round's polynomial if it is known; point K(2, rounds − 1): the weights of each round are eq of the last ones, as
        many as variables are left behind it. The tables' cells are lost."""

    def outer(self, vectors: Sequence[U64]) -> U64:
        """⊗ of at least one vector K(2, n), the last one's index fastest: K(2, Π n), all on the host."""

    def outer_sums(self, sums: Sequence[OuterSum]) -> None:
        """Each sum into its place; vectors may be NumPy arrays anywhere."""

    def open_sums(self, f: U64, rows: I64, w: U64) -> list[Ext]:
        """Σ F(X, Y, …)·W(X, Y, …) over n groups of four rows and their columns, at X = 0, 1, ∞ (a coefficient) and for each Y = 0, 1, ∞.
        f F (R, ell); rows (4, n), on the host: the row of f for (X, Y) = (0, 0), (0, 1), (1, 0), (1, 1), or -1, a row of zeros; w
        K (2, 4·n·ell), their weights in the same order."""

    def open_fold(self, f: U64, rows: I64, w: U64, eq: U64, out_f: U64, out_w: U64) -> None:
        """Σ_q eq_q·(row q of each group), of the same f and of w, into K (2, n·ell) each; eq K (2, 4) on the host."""
