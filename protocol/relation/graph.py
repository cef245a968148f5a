"""The tensor graph of a task: what is committed, what is virtual, what must hold.

A `Graph` is written once by `protocol/relation/model.py` and used three times: the executor evaluates
it in exact integers, the prover reduces claims on it to claims on committed cells, and the verifier
does the same reduction without values (docs/protocol.md, "The relation").

A tensor is one of

* `Input`      committed elsewhere (base weights, state, boundary tensors, dataset),
* `Committed`  committed by this task, in its witness or in one of its output commitments; how the honest
               prover computes it is its *hint*, which the verifier never looks at,
* `Public`     known integers (tables of cos and sin, masks, the initial adapter),
* virtual      `Linear`, `AxisMap`, `Gather`, `Product` or `OneHot` of other tensors.

Assertions are `Lookup` (every cell's tuple of columns is a row of a public table), `Zero` (a tensor vanishes)
and `Publish` (a tensor equals published values). Every tensor carries exact integer bounds [lo, hi]: declared
where committed (and then proved by a lookup), derived by interval arithmetic elsewhere; a bound of 2^62 or
more is refused when the graph is built. All equations are over the integers because of that: |value| < p/2.

Axes are named by letters and an operation names the axes it works on, as einsum does.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

IntArray: TypeAlias = npt.NDArray[np.int64]
BOUND = 1 << 62
WITNESS = "witness"


class RelationError(ValueError):
    """The relation cannot be built: shapes that disagree, or a bound that reaches 2^62."""


@dataclass(frozen=True)
class Tensor:
    """A node's value: axis letters, shape, inclusive integer bounds, and a name for error messages."""

    index: int
    name: str
    axes: str
    shape: tuple[int, ...]
    lo: int
    hi: int

    @property
    def magnitude(self) -> int:
        return max(abs(self.lo), abs(self.hi))

    @property
    def cells(self) -> int:
        return prod(self.shape)  # exact: shapes come from a manifest, and a product of them may pass 2^63


@dataclass(frozen=True)
class Input:
    """A tensor `tensor_name` inside the commitment that the statement binds to the role `commitment`."""

    commitment: str
    tensor_name: str


@dataclass(frozen=True)
class Committed:
    """A tensor committed by this task, in the role `commitment` ("witness" or an output)."""

    commitment: str
    tensor_name: str


@dataclass(frozen=True, eq=False)
class Public:
    values: IntArray


@dataclass(frozen=True, eq=False)
class Term:
    """coef · Π_axis vectors[axis] · tensor, its axes renamed to `axes`; axes absent from the output are summed."""

    coef: int
    tensor: Tensor
    axes: str
    vectors: tuple[tuple[str, IntArray], ...] = ()


@dataclass(frozen=True, eq=False)
class Linear:
    """Σ terms + const; output axes that a term lacks are broadcast."""

    terms: tuple[Term, ...]
    const: int


@dataclass(frozen=True, eq=False)
class AxisMap:
    """out[.., i, ..] = Σ_e [rows_e = i] · vals_e · tensor[.., cols_e, ..] on one axis."""

    tensor: Tensor
    axis: int
    rows: IntArray
    cols: IntArray
    vals: IntArray


@dataclass(frozen=True, eq=False)
class Gather:
    """out[i, j, ..] = tensor[index[i, j], ..]: the public data order."""

    tensor: Tensor
    index: IntArray


@dataclass(frozen=True)
class Product:
    """einsum of two tensors: axes in both are kept (batch) or summed (contracted), as in the output."""

    a: Tensor
    a_axes: str
    b: Tensor
    b_axes: str


@dataclass(frozen=True)
class OneHot:
    """out[.., v] = high[.., v // base] · low[.., v mod base] for v < size: a one-hot row from two digits."""

    high: Tensor
    low: Tensor


Operation: TypeAlias = Input | Committed | Public | Linear | AxisMap | Gather | Product | OneHot


@dataclass(frozen=True)
class Hint:
    """How the honest prover computes committed tensors: `kind` is a method of the executor. Never verified."""

    kind: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    params: tuple[tuple[str, object], ...] = ()


@dataclass(frozen=True)
class Lookup:
    """For every cell, (columns) is a row of the table `table` (protocol/relation/tables.py)."""

    table: str
    columns: tuple[Tensor, ...]


@dataclass(frozen=True)
class Zero:
    tensor: Tensor


@dataclass(frozen=True)
class Publish:
    """`tensor` equals the values that the statement publishes under `name`."""

    tensor: Tensor
    name: str


@dataclass(eq=False)
class Graph:
    """Builder and container. Methods return the new `Tensor`; `RelationError` if shapes or bounds do not fit."""

    tensors: list[Tensor] = field(default_factory=list)
    ops: list[Operation] = field(default_factory=list)
    hints: list[Hint] = field(default_factory=list)
    lookups: list[Lookup] = field(default_factory=list)
    zeros: list[Zero] = field(default_factory=list)
    published: list[Publish] = field(default_factory=list)

    def _add(self, op: Operation, name: str, axes: str, shape: Sequence[int], lo: int, hi: int) -> Tensor:
        if len(axes) != len(shape) or len(set(axes)) != len(axes):
            raise RelationError(f"{name}: axes '{axes}' do not name shape {tuple(shape)}")
        if max(abs(lo), abs(hi)) >= BOUND:
            raise RelationError(f"{name}: values may reach {max(abs(lo), abs(hi))}, the limit is 2^62")
        tensor = Tensor(len(self.tensors), name, axes, tuple(int(n) for n in shape), lo, hi)
        self.tensors.append(tensor)
        self.ops.append(op)
        return tensor

    # sources -----------------------------------------------------------------------------------

    def input(self, commitment: str, name: str, axes: str, shape: Sequence[int], lo: int, hi: int) -> Tensor:
        return self._add(Input(commitment, name), f"{commitment}/{name}", axes, shape, lo, hi)

    def commit(
        self, name: str, axes: str, shape: Sequence[int], lo: int, hi: int, commitment: str = WITNESS
    ) -> Tensor:
        """Declare a committed tensor. Its bounds must be proved by lookups; its hint is given with `hint`."""
        return self._add(Committed(commitment, name), name, axes, shape, lo, hi)

    def public(self, name: str, axes: str, values: npt.ArrayLike) -> Tensor:
        array = np.asarray(values, dtype=np.int64)
        return self._add(Public(array), name, axes, array.shape, int(array.min()), int(array.max()))

    def hint(
        self, kind: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor], **params: object
    ) -> None:
        self.hints.append(Hint(kind, tuple(inputs), tuple(outputs), tuple(sorted(params.items()))))

    # virtual tensors ---------------------------------------------------------------------------

    def linear(
        self,
        name: str,
        axes: str,
        *terms: tuple[int, Tensor] | tuple[int, Tensor, str] | Term,
        const: int = 0,
        sizes: dict[str, int] | None = None,
    ) -> Tensor:
        """Σ coef·tensor + const over `axes`. `sizes` gives the length of axes that no term has."""
        full = tuple(t if isinstance(t, Term) else Term(t[0], t[1], t[2] if len(t) > 2 else t[1].axes) for t in terms)
        lengths = dict(sizes or {})
        for term in full:
            _once(name, term.axes)
            pairs = [*zip(term.axes, term.tensor.shape, strict=True)]
            pairs += [(axis, len(vector)) for axis, vector in term.vectors]
            for axis, n in pairs:
                if lengths.setdefault(axis, n) != n:
                    raise RelationError(f"{name}: axis {axis} has lengths {lengths[axis]} and {n}")
        lo = hi = const
        for term in full:
            scale = [term.coef]
            for axis, vector in term.vectors:
                if axis not in axes:
                    raise RelationError(f"{name}: a vector on the summed axis {axis} is not supported")
                scale = [c * v for c in scale for v in (int(vector.min()), int(vector.max()))]
            summed = prod(lengths[a] for a in term.axes if a not in axes)
            ends = [c * v * summed for c in scale for v in (term.tensor.lo, term.tensor.hi)]
            lo, hi = lo + min(ends), hi + max(ends)
        return self._add(Linear(full, const), name, axes, [lengths[a] for a in axes], lo, hi)

    def axis_map(
        self, name: str, tensor: Tensor, axis: str, size: int, rows: npt.ArrayLike, cols: npt.ArrayLike,
        vals: npt.ArrayLike | None = None,
    ) -> Tensor:
        """A public sparse matrix applied to one axis (slices, permutations, rotate-half, shifts, scans)."""
        r, c = np.asarray(rows, dtype=np.int64), np.asarray(cols, dtype=np.int64)
        v = np.ones(len(r), dtype=np.int64) if vals is None else np.asarray(vals, dtype=np.int64)
        at = tensor.axes.index(axis)
        if not len(r) == len(c) == len(v) or (len(r) and (r.max() >= size or c.max() >= tensor.shape[at])):
            raise RelationError(f"{name}: axis map out of range")
        shape = tensor.shape[:at] + (size,) + tensor.shape[at + 1 :]
        low, high = np.zeros(size, dtype=object), np.zeros(size, dtype=object)
        for i, value in zip(r.tolist(), v.tolist(), strict=True):
            low[i] += min(value * tensor.lo, value * tensor.hi)
            high[i] += max(value * tensor.lo, value * tensor.hi)
        return self._add(AxisMap(tensor, at, r, c, v), name, tensor.axes, shape, int(min(low)), int(max(high)))

    def gather(self, name: str, tensor: Tensor, axes: str, index: npt.ArrayLike) -> Tensor:
        """out[i, j, ..] = tensor[index[i, j], ..]; `axes` are the two new letters that replace the first."""
        at = np.asarray(index, dtype=np.int64)
        if at.ndim != 2 or at.min() < 0 or at.max() >= tensor.shape[0]:
            raise RelationError(f"{name}: index out of range")
        return self._add(
            Gather(tensor, at), name, axes + tensor.axes[1:], at.shape + tensor.shape[1:], tensor.lo, tensor.hi
        )

    def product(self, name: str, spec: str, a: Tensor, b: Tensor) -> Tensor:
        """einsum, e.g. product("scores", "sbtgqj,sbugj->sbgqtu", q, k). Every output axis comes from a or b, and an
        axis that is not in the output must be in both (sum axes of one operand with `linear` first)."""
        inputs, out = spec.split("->")
        a_axes, b_axes = inputs.split(",")
        lengths: dict[str, int] = {}
        for axes, tensor in ((a_axes, a), (b_axes, b)):
            if len(axes) != len(tensor.shape):
                raise RelationError(f"{name}: '{axes}' does not name {tensor.name} of shape {tensor.shape}")
            _once(name, axes)
            for axis, n in zip(axes, tensor.shape, strict=True):
                if lengths.setdefault(axis, n) != n:
                    raise RelationError(f"{name}: axis {axis} has lengths {lengths[axis]} and {n}")
        contracted = [x for x in lengths if x not in out]
        if any(x not in a_axes or x not in b_axes for x in contracted) or any(x not in lengths for x in out):
            raise RelationError(f"{name}: unsupported einsum {spec}")
        count = prod(lengths[x] for x in contracted)
        ends = [x * y * count for x in (a.lo, a.hi) for y in (b.lo, b.hi)]
        lo = 0 if a is b and a_axes == b_axes else min(ends)
        return self._add(Product(a, a_axes, b, b_axes), name, out, [lengths[x] for x in out], lo, max(ends))

    def one_hot(self, name: str, high: Tensor, low: Tensor, axis: str, size: int) -> Tensor:
        """Rows of length `size` from two digit vectors on the last axes of `high` and `low`, whose other axes are the same: a claim on
        rows in a box is a claim on both digits there."""
        if high.axes[:-1] != low.axes[:-1] or high.shape[:-1] != low.shape[:-1] or high.shape[-1] * low.shape[-1] < size:
            raise RelationError(f"{name}: digits '{high.axes}' {high.shape}, '{low.axes}' {low.shape} do not make {size}")
        return self._add(OneHot(high, low), name, high.axes[:-1] + axis, high.shape[:-1] + (size,), 0, 1)

    # assertions --------------------------------------------------------------------------------

    def lookup(self, table: str, *columns: Tensor) -> None:
        if any(c.shape != columns[0].shape for c in columns):
            raise RelationError(f"lookup in {table}: columns of different shapes")
        self.lookups.append(Lookup(table, columns))

    def zero(self, tensor: Tensor) -> None:
        self.zeros.append(Zero(tensor))

    def publish(self, tensor: Tensor, name: str) -> None:
        self.published.append(Publish(tensor, name))

    # ------------------------------------------------------------------------------------------

    def digest(self) -> str:
        """SHA-256 of everything the verifier relies on (hints excluded): operations, bounds, assertions."""
        h = hashlib.sha256(b"verilora/relation/1")

        def put(value: object) -> None:
            if isinstance(value, np.ndarray):
                value = ("array", value.shape, hashlib.sha256(value.astype(">i8").tobytes()).hexdigest())
            if isinstance(value, Tensor):
                value = ("tensor", value.index)
            if isinstance(value, tuple | list):
                h.update(b"(%d" % len(value))
                for item in value:
                    put(item)
            else:
                data = repr(value).encode()
                h.update(b"%d:" % len(data) + data)

        for tensor, op in zip(self.tensors, self.ops, strict=True):
            put((tensor.name, tensor.axes, tensor.shape, tensor.lo, tensor.hi, type(op).__name__))
            for key, value in vars(op).items():
                if isinstance(op, Linear) and key == "terms":
                    put([(t.coef, t.tensor, t.axes, list(t.vectors)) for t in op.terms])
                else:
                    put((key, value))
        put([(x.table, x.columns) for x in self.lookups])
        put([x.tensor for x in self.zeros])
        put([(x.tensor, x.name) for x in self.published])
        return h.hexdigest()


def _once(name: str, axes: str) -> None:
    """A diagonal is not an operation: claims have one weight vector for each axis."""
    if len(set(axes)) < len(axes):
        raise RelationError(f"{name}: '{axes}' names an axis twice")
