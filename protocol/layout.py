"""Where a tensor's cells lie: in a commitment's rows and in the leaves of the lookup tree.

An axis of length n = odd · 2^k is indexed by (odd digit, k low bits). A tensor's index is all odd digits, outermost,
then all low bits, axis by axis, so that only the digits are padded to powers of two and a wide odd tensor has whole
absent blocks instead of padding inside rows (docs/protocol.md, "Layout"). The multilinear weight of axis a at a
point r is eq((digit bits, low bits), r), cut off at n: cells outside the tensor weigh nothing.

A commitment packs tensors, largest first, each at an offset aligned to its padded size, in rows of ℓ cells; rows
without a valid cell do not exist. Its id is SHA-256(root, geometry): a root under another layout is another id. The geometry's
`label` says what the cells mean where that is not in the layout (a dataset's tokenizer digest), so the id covers it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from protocol.code import Code
from protocol.encoding import canonical_json, tagged_digest
from protocol.field import U64, Ext, Field
from protocol.relation.graph import IntArray

T = TypeVar("T")


def bits_of(n: int) -> int:
    """Bits needed to index n values: ⌈log2 n⌉."""
    return (n - 1).bit_length()


@dataclass(frozen=True)
class TensorLayout:
    """Index structure of one tensor: `digits`[a] bits of the odd part, `low`[a] bits of the power of two."""

    shape: tuple[int, ...]

    @cached_property
    def low(self) -> tuple[int, ...]:
        return tuple((n & -n).bit_length() - 1 for n in self.shape)

    @cached_property
    def odd(self) -> tuple[int, ...]:
        return tuple(n >> k for n, k in zip(self.shape, self.low, strict=True))

    @cached_property
    def digits(self) -> tuple[int, ...]:
        return tuple(bits_of(o) for o in self.odd)

    @cached_property
    def block_bits(self) -> int:
        """log2 of the cells that share their odd digits: a contiguous, completely valid block."""
        return sum(self.low)

    @cached_property
    def variables(self) -> int:
        return sum(map(bits_of, self.shape))  # ⌈log2 odd⌉ + k = ⌈log2 (odd·2^k)⌉

    @cached_property
    def blocks(self) -> IntArray:
        """Index (in units of blocks) of every valid block, in the order of `arrange`."""
        index = np.zeros(1, dtype=np.int64)
        for odd, bits in zip(self.odd, self.digits, strict=True):
            index = (index[:, None] << bits | np.arange(odd, dtype=np.int64)[None, :]).reshape(-1)
        return index

    def arrange(self, values: np.ndarray) -> np.ndarray:
        """(…, *shape) → (…, blocks, 2^block_bits): cells in index order, absent blocks left out."""
        lead = values.ndim - len(self.shape)
        split = [n for pair in zip(self.odd, (1 << k for k in self.low), strict=True) for n in pair]
        k = len(self.shape)
        order = [*range(lead), *(lead + 2 * a for a in range(k)), *(lead + 2 * a + 1 for a in range(k))]
        moved = values.reshape((*values.shape[:lead], *split)).transpose(order)
        return moved.reshape(*values.shape[:lead], -1, 1 << self.block_bits)

    def axis_points(self, point: U64) -> list[U64]:
        """Split a point (2, variables) into the coordinates of each axis: digit bits, then low bits."""
        parts, at, low_at = [], 0, sum(self.digits)
        for digit, low in zip(self.digits, self.low, strict=True):
            parts.append(np.concatenate([point[:, at : at + digit], point[:, low_at : low_at + low]], axis=1))
            at, low_at = at + digit, low_at + low
        return parts

    def eq_weights(self, vectors: "Vectors", point: U64) -> tuple[U64, ...]:
        """eq(r, ·) as one weight vector (2, n_a) per axis, cut off at the axis length."""
        return tuple(vectors.eq(part, n, (0, n)) for part, n in zip(self.axis_points(point), self.shape, strict=True))


@dataclass(frozen=True)
class Slot:
    """A tensor's place in a commitment: cells [offset, offset + 2^variables) of the virtual index."""

    name: str
    tensor: TensorLayout
    offset: int


@dataclass(frozen=True)
class CommitmentLayout:
    """Slots of named tensors in rows of `code.ell` cells; the code's blinding is sized by the budget of openings."""

    slots: tuple[Slot, ...]
    code: Code
    label: str = ""

    @staticmethod
    def pack(tensors: Sequence[tuple[str, tuple[int, ...]]], code: Code, label: str = "") -> "CommitmentLayout":
        layouts = [(name, TensorLayout(tuple(shape))) for name, shape in tensors]
        if len({name for name, _ in layouts}) < len(layouts):  # a name is how claims find their cells
            raise ValueError(f"a tensor name occurs twice: {sorted(name for name, _ in layouts)}")
        layouts.sort(key=lambda item: -item[1].variables)
        slots, offset = [], 0
        for name, layout in layouts:
            slots.append(Slot(name, layout, offset))
            offset += 1 << layout.variables
        return CommitmentLayout(tuple(slots), code, label)

    @cached_property
    def by_name(self) -> dict[str, Slot]:
        return {slot.name: slot for slot in self.slots}

    @cached_property
    def column_bits(self) -> int:
        return self.code.ell.bit_length() - 1

    @cached_property
    def variables(self) -> int:
        last = self.slots[-1]
        return max(bits_of(last.offset + (1 << last.tensor.variables)), self.column_bits)

    @cached_property
    def rows(self) -> IntArray:
        """Virtual indices of the rows that exist, ascending."""
        found = np.concatenate([self._rows_of(slot) for slot in self.slots])  # ascending; neighbours share a row
        return found[np.diff(found, prepend=-1) > 0]

    def _rows_of(self, slot: Slot) -> IntArray:
        """Rows with a valid cell of a slot, from the leading bits of its index: a row may have a million blocks, which are not listed."""
        tensor, left = slot.tensor, slot.tensor.variables
        if left <= self.column_bits:
            return np.array([slot.offset >> self.column_bits], dtype=np.int64)
        index = np.zeros(1, dtype=np.int64)
        for odd, bits in zip((*tensor.odd, 1 << tensor.block_bits), (*tensor.digits, tensor.block_bits), strict=True):
            left -= bits
            inside = min(max(self.column_bits - left, 0), bits)  # bits of this digit that are columns
            index = (index[:, None] << bits - inside | np.arange((odd - 1 >> inside) + 1)[None, :]).reshape(-1)
        return (slot.offset >> self.column_bits) + index

    def row_weights(self, field: Field, point: U64) -> U64:
        """eq of the row coordinates at every existing row: the q_c of an opening, (2, rows)."""
        table = field.eq_table(point[:, : self.variables - self.column_bits])
        return np.ascontiguousarray(table[:, self.rows])

    def slot_eq(self, slot: Slot, corners: "Corners", vectors: "Vectors") -> tuple[Ext, tuple[U64, ...]]:
        """(eq of the leading bits, eq weights per axis) of a slot at the point of `corners`."""
        lead = self.variables - slot.tensor.variables
        return corners.at(lead, slot.offset >> slot.tensor.variables), slot.tensor.eq_weights(vectors, corners.point[:, lead:])

    def geometry(self) -> dict[str, object]:
        field = self.code.field
        return {
            "field": [field.p, field.w], "ell": self.code.ell, "n": self.code.n, "blinding": self.code.blinding,
            "tensors": [[s.name, list(s.tensor.shape), s.offset] for s in self.slots], "label": self.label,
        }

    def identity(self, root: bytes) -> str:
        """The commitment id: what statements, the ledger and the chain check refer to."""
        return tagged_digest("commitment/1", root, canonical_json(self.geometry())).hex()


class Vectors:
    """Weight vectors over K. Each is made once, so equal ones are one array, and what is made of them is found again by their identity."""

    def __init__(self, field: Field) -> None:
        self.field, self._known = field, dict[object, tuple[Any, tuple[U64, ...]]]()

    def once(self, key: object, make: Callable[[], T], *of: U64) -> T:
        if key not in self._known:
            self._known[key] = make(), of  # which must not be freed, as others would get their identity
        found: T = self._known[key][0]
        return found

    def eq(self, point: U64, length: int, side: tuple[int, int]) -> U64:
        """eq(point, ·) on a side of an axis, as weights (2, length) of the whole axis: other cells weigh nothing."""
        return self.once((length, side, point.tobytes()), lambda: within(self.field, self.field.eq_table(point), length, side))

    def times(self, a: U64, b: U64) -> U64:
        return self.once((id(a), id(b)), lambda: self.field.kmul(a, b), a, b)

    def sum(self, w: U64) -> Ext:
        return self.once(id(w), lambda: Ext.from_array(self.field, self.field.ksum(w)), w)


def within(field: Field, weights: U64, length: int, side: tuple[int, int]) -> U64:
    """The first weights of (2, …) on a side of an axis, as weights (2, length) of the whole axis."""
    if side == (0, length):
        return weights[:, :length]
    out = field.zeros(2, length)
    out[:, slice(*side)] = weights[:, : side[1] - side[0]]
    return out


class Corners:
    """eq(the first m coordinates of a point (2, …), bits of an index), most significant first; kept, as indices share first bits."""

    def __init__(self, field: Field, point: U64) -> None:
        self.field, self.point = field, point
        self._coordinates = [Ext(c0, c1, field) for c0, c1 in point.T.tolist()]
        self._known = {(0, 0): field.one}

    def at(self, m: int, index: int) -> Ext:
        if (m, index) not in self._known:
            r = self._coordinates[m - 1]
            self._known[m, index] = self.at(m - 1, index >> 1) * (r if index & 1 else 1 - r)
        return self._known[m, index]
