"""Every cell of a committed tensor moved in a world of its own, all worlds of a tensor at once, modulo p.

A world is the honest witness with one cell changed by any field element. `Worlds.broken` says in which worlds an assertion
that is evaluated at the *image* of the cell fails: for tensors that depend on the cell by linear maps, products, sums and
broadcasts the change D at one cell is known without evaluating the tensor (an axis that the cell does not have is looked at
in one place, and in others if that breaks nothing). What it calls broken is broken; what it does not is left to
`evaluate_one`, which evaluates one world in full.

With `adaptive` the adversary also finds new values for every committed tensor that the honest prover would compute from the
cell: assertions about those are taken as satisfied, except that a value split in limbs still needs limbs, which exist if and
only if its canonical representative has no more bits than they.
"""

from dataclasses import dataclass
from dataclasses import field as dataclass_field
from functools import cached_property

import numpy as np

from protocol.field import GOLDILOCKS, U64
from protocol.relation.graph import AxisMap, Committed, Gather, Graph, Input, IntArray, Linear, Lookup, OneHot, Operation, Product
from protocol.relation.tables import table_columns
from prover.executor.reference import ReferenceOps
from tests.support.evil import _Unbounded
from tests.support.stage import Case

F = GOLDILOCKS
PLACES = 16
Axes = tuple[int | None, ...]  # for each axis of a tensor: the moved tensor's axis, or one place


def sources(op: Operation) -> list[int]:
    if isinstance(op, Linear):
        return [t.tensor.index for t in op.terms]
    if isinstance(op, AxisMap):
        return [op.tensor.index] if len(op.rows) else []
    if isinstance(op, Gather):
        return [op.tensor.index]
    if isinstance(op, Product):
        return [op.a.index, op.b.index]
    return [op.high.index, op.low.index] if isinstance(op, OneHot) else []


@dataclass(frozen=True)
class Image:
    """The change of a tensor at the moved cell's image, in the moved tensor's shape; `single`: nothing else of it changes."""

    change: U64
    axes: Axes
    single: bool


@dataclass(eq=False)
class Worlds:
    graph: Graph
    values: list[IntArray]
    inputs: dict[tuple[str, str], IntArray]
    _fields: dict[int, U64] = dataclass_field(default_factory=dict)
    _resolved: dict[int, set[int]] = dataclass_field(default_factory=dict)
    _place: int = 0  # where axes that the moved tensor does not have are looked at (in their last place, if they are shorter)

    @cached_property
    def leaves(self) -> list[int]:
        """For each tensor the committed tensors (and inputs) it is computed from, itself if it is one: a bit each."""
        out = list[int]()
        for i, op in enumerate(self.graph.ops):
            out.append(1 << i if isinstance(op, Committed | Input) else 0)
            for j in sources(op):
                out[i] |= out[j]
        return out

    @cached_property
    def lookups(self) -> dict[int, list[Lookup]]:
        """By the tensors in their columns."""
        out: dict[int, list[Lookup]] = {}
        for lookup in self.graph.lookups:
            for i in {c.index for c in lookup.columns}:
                out.setdefault(i, []).append(lookup)
        return out

    @cached_property
    def readers(self) -> list[set[int]]:
        out: list[set[int]] = [set() for _ in self.graph.ops]
        for i, op in enumerate(self.graph.ops):
            for j in sources(op):
                out[j].add(i)
        return out

    def reach(self, start: int) -> set[int]:
        """The moved tensor and the virtual tensors whose value it can change."""
        found, stack = {start}, [start]
        while stack:
            new = self.readers[stack.pop()] - found
            found |= new
            stack += new
        return found

    def resolved(self, start: int) -> set[int]:
        """Committed tensors that the honest prover computes from this one, directly or not."""
        if start not in self._resolved:
            found, stack = {start}, [start]
            while stack:
                new = self.children.get(stack.pop(), set()) - found
                found |= new
                stack += new
            self._resolved[start] = found - {start}
        return self._resolved[start]

    @cached_property
    def children(self) -> dict[int, set[int]]:
        """Committed tensors whose hint reads something computed from this one."""
        out: dict[int, set[int]] = {}
        for hint in self.graph.hints:
            read = 0
            for x in hint.inputs:
                read |= self.leaves[x.index]
            for i in range(read.bit_length()):
                if read >> i & 1:
                    out.setdefault(i, set()).update(t.index for t in hint.outputs)
        return out

    def honest(self, i: int) -> U64:
        if i not in self._fields:
            self._fields[i] = F.embed(np.asarray(self.values[i], dtype=np.int64))
        return self._fields[i]

    def at(self, array: np.ndarray, axes: Axes, rank: int) -> np.ndarray:
        """A tensor at the image, broadcastable to the moved tensor's shape."""
        kept = [k for k, a in enumerate(axes) if a is not None]
        part = array[tuple(slice(None) if a is not None else min(self._place, n - 1) for a, n in zip(axes, array.shape, strict=True))]
        order = sorted(range(len(kept)), key=lambda k: axes[kept[k]] or 0)
        shape = [1] * rank
        for k in kept:
            shape[axes[k] or 0] = array.shape[k]
        return part.transpose(order).reshape(shape) if kept else part.reshape(shape)

    def images(self, start: int, change: U64, skip: set[int]) -> dict[int, Image | None]:
        """Image of every tensor the cell reaches; None where it is not known. `skip`: tensors that are resolved anew."""
        rank, known = change.ndim, dict[int, Image | None]()
        known[start] = Image(change, tuple(range(rank)), True)
        reached = self.reach(start)
        anew = sum(1 << i for i in skip)
        for i in sorted(reached - {start}):
            found = [known[j] for j in sources(self.graph.ops[i]) if j in known]
            known[i] = None
            if self.leaves[i] & anew or any(x is None for x in found):
                continue
            op = self.graph.ops[i]
            if isinstance(op, Linear):
                known[i] = self._linear(op, self.graph.tensors[i].axes, known, rank)
            elif isinstance(op, Product):
                known[i] = self._product(op, self.graph.tensors[i].axes, known, rank)
            elif isinstance(op, AxisMap):
                known[i] = self._axis_map(op, known[op.tensor.index], self.graph.tensors[i].shape, rank)
        return known

    def _linear(self, op: Linear, axes: str, known: dict[int, Image | None], rank: int) -> Image | None:
        place, total, single = dict[str, int | None](), None, True
        terms = [(t, x) for t in op.terms if (x := known.get(t.tensor.index)) is not None]
        for term, image in terms:
            for letter, a in zip(term.axes, image.axes, strict=True):
                if letter in axes and place.setdefault(letter, a) != a or letter not in axes and not image.single:
                    return None
        for term, image in terms:
            part = F.mul(image.change, F.array(term.coef))
            for letter, vector in term.vectors:
                where = place.get(letter)
                part = F.mul(part, self.at(F.embed(vector), (where,), rank))
            total = part if total is None else F.add(total, part)
            single = single and image.single and all(letter in term.axes for letter in axes)
        return None if total is None else Image(total, tuple(place.get(x) for x in axes), single)

    def _product(self, op: Product, axes: str, known: dict[int, Image | None], rank: int) -> Image | None:
        place, single = dict[str, int | None](), True
        sides = [(known.get(t.index), letters, t.index) for t, letters in ((op.a, op.a_axes), (op.b, op.b_axes))]
        for image, letters, _ in sides:
            if image is None:
                continue
            for letter, a in zip(letters, image.axes, strict=True):
                if place.setdefault(letter, a) != a or letter not in axes and not image.single:
                    return None
            single = single and image.single and all(letter in letters for letter in axes)
        one, two = (self.at(self.honest(i), tuple(place.get(x) for x in letters), rank) for _, letters, i in sides)
        (a, _, _), (b, _, _) = sides
        change = F.zeros(*([1] * rank))
        if a is not None:
            change = F.add(change, F.mul(a.change, two))
        if b is not None:
            change = F.add(change, F.mul(b.change, one))
        if a is not None and b is not None:
            change = F.add(change, F.mul(a.change, b.change))
        return Image(change, tuple(place.get(x) for x in axes), single)

    def _axis_map(self, op: AxisMap, image: Image | None, shape: tuple[int, ...], rank: int) -> Image | None:
        if image is None or not image.single or (a := image.axes[op.axis]) is None:
            return None
        size, one_row = op.tensor.shape[op.axis], shape[op.axis] == 1
        if not one_row and shape[op.axis] != size:
            return None
        weight, here = np.zeros(size, dtype=np.int64), (op.rows == 0) if one_row else (op.rows == op.cols)
        np.add.at(weight, op.cols[here], op.vals[here])
        change = F.mul(image.change, self.at(F.embed(weight), (a,), rank))
        axes = tuple(None if one_row and k == op.axis else x for k, x in enumerate(image.axes))
        return Image(change, axes, one_row)

    @cached_property
    def chains(self) -> list[tuple[int, int, set[int]]]:
        """(tensor, bits, its limbs) of every value that is split in limbs, all of them looked up in the table of their width."""
        tables, found = {x.columns[0].index: x.table for x in self.graph.lookups}, []
        limbs: dict[int, list[tuple[int, int, int]]] = {}
        for hint in self.graph.hints:
            if hint.kind == "limb":
                p = dict(hint.params)
                limbs.setdefault(hint.inputs[0].index, []).append((int(p["shift"]), int(p["bits"]), hint.outputs[0].index))  # type: ignore[call-overload]
        for value, parts in limbs.items():
            uppers = {i for *_, i in parts}
            lowest = [t for t, op in zip(self.graph.tensors, self.graph.ops) if isinstance(op, Linear)
                      and {x.tensor.index for x in op.terms} == uppers | {value} and tables.get(t.index) == "range:16"]
            if lowest and all(tables.get(i) == f"range:{bits}" for _, bits, i in parts):
                found.append((value, max(shift + bits for shift, bits, _ in parts), uppers))
        return found

    def broken(self, start: int, change: U64, adaptive: bool = False, places: int = 1) -> np.ndarray:
        """bool, in the moved tensor's shape: some assertion fails in the world where this cell changes by this much."""
        out = np.zeros(change.shape, dtype=bool)
        for self._place in range(places):
            out |= self._broken_here(start, change, adaptive)
            if out.all():
                break
        self._place = 0
        return out

    def _broken_here(self, start: int, change: U64, adaptive: bool) -> np.ndarray:
        rank, out = change.ndim, np.zeros(change.shape, dtype=bool)
        skip = self.resolved(start) if adaptive else set[int]()
        known = self.images(start, change, skip)

        def value(i: int) -> U64 | None:
            image = known.get(i)
            return None if image is None else F.add(image.change, self.at(self.honest(i), image.axes, rank))

        if adaptive:
            for i, bits, limbs in self.chains:
                if i in known and limbs <= skip and (v := value(i)) is not None:
                    out |= v >> np.uint64(bits) != 0
        for i in {x.tensor.index for x in self.graph.zeros} & known.keys():
            if (v := value(i)) is not None:
                out |= v != 0
        for i in {x.tensor.index for x in self.graph.published} & known.keys():
            if known[i] is not None:
                out |= known[i].change != 0  # type: ignore[union-attr]
        for lookup in {id(x): x for i in known for x in self.lookups.get(i, [])}.values():
            images = [known[c.index] for c in lookup.columns if known.get(c.index) is not None]
            first = lookup.columns[0].index
            if not images or images[0] is None or (first in known and known[first] is None) or first in skip:
                continue
            axes, table = images[0].axes, table_columns(lookup.table)
            key = value(first) if first in known else self.at(self.honest(first), axes, rank)
            row = F.sub(np.asarray(key), F.embed(table[0][:1]).reshape([1] * rank))
            inside = row < np.uint64(len(table[0]))
            out |= ~inside
            row = np.where(inside, row, 0).astype(np.int64)
            for column, tensor in zip(table[1:], lookup.columns[1:], strict=True):
                if tensor.index in skip or (tensor.index in known and known[tensor.index] is None):
                    continue
                v = value(tensor.index) if tensor.index in known else self.at(self.honest(tensor.index), axes, rank)
                out |= F.embed(column)[row] != v
        return out

    def evaluate_one(self, start: int, cell: tuple[int, ...], delta: int, adaptive: bool) -> bool:
        """The same for one cell and an integer change, by evaluating the whole world."""
        moved = np.asarray(self.values[start]).copy()
        moved[cell] += delta
        free = self.resolved(start) if adaptive else set[int]()
        given = {t.index: self.values[t.index] for t, op in zip(self.graph.tensors, self.graph.ops)
                 if isinstance(op, Committed) and t.index not in free} | {start: moved}
        inputs = dict(self.inputs)
        op = self.graph.ops[start]
        if isinstance(op, Input):
            inputs[op.commitment, op.tensor_name] = moved
            del given[start]
        try:
            with np.errstate(all="ignore"):  # hints of values that no honest prover has: what comes of them is checked below
                found = _Unbounded(self.graph, inputs, ReferenceOps(), given, 0).run([t.index for t in self.graph.tensors])
        except (IndexError, OverflowError):  # a table has no such row
            return True
        return not self._holds(found)

    def _holds(self, found: dict[int, IntArray]) -> bool:
        if any(found[z.tensor.index].any() for z in self.graph.zeros):
            return False
        if any(not np.array_equal(found[x.tensor.index], self.values[x.tensor.index]) for x in self.graph.published):
            return False
        for lookup in self.graph.lookups:
            columns, first = table_columns(lookup.table), found[lookup.columns[0].index]
            if first.min() < columns[0][0] or first.max() > columns[0][-1]:
                return False
            for column, tensor in zip(columns[1:], lookup.columns[1:], strict=True):
                if not np.array_equal(column[first - columns[0][0]], found[tensor.index]):
                    return False
        return True


def moves(worlds: Worlds, start: int, rng: np.random.Generator, number: int) -> U64:
    """A change for every cell: small, a power of two, out of the declared range, a wrap of p in an equation, or any element."""
    tensor, graph = worlds.graph.tensors[start], worlds.graph
    shape = tensor.shape
    sign = rng.integers(0, 2, shape) * 2 - 1
    kind = number % 6
    if kind == 0:
        return F.embed(sign)
    if kind == 1:
        return F.embed(sign << rng.integers(0, 62, shape))
    if kind == 2:
        return F.sub(F.embed(np.where(sign > 0, np.int64(tensor.hi + 1), np.int64(tensor.lo - 1))), worlds.honest(start))
    if kind == 3:
        return F.embed(rng.integers(1, 1 << 62, shape))
    coefs = sorted({abs(t.coef) for i in worlds.readers[start] if isinstance(op := graph.ops[i], Linear) for t in op.terms
                    if t.tensor.index == start} - {0, 1}) or [2]
    inverse = F.array([pow(c, -1, F.p) for c in coefs])[rng.integers(0, len(coefs), shape)]
    small = sign if kind == 4 else sign * rng.integers(1, 1 << 12, shape)
    return F.mul(inverse, F.embed(small))  # moves a remainder, which has the tensor times this coefficient, by little


def survivors(worlds: Worlds, start: int, change: U64, adaptive: bool, free: bool) -> list[tuple[int, ...]]:
    """Cells whose world breaks nothing. `free`: the tensor is an input whose values the prover may choose within bounds."""
    tensor, ok = worlds.graph.tensors[start], worlds.broken(start, change, adaptive, PLACES)
    if free:  # another value in the declared range is another model, not a lie
        value = F.sub(F.add(change, worlds.honest(start)), F.array(tensor.lo))
        ok |= value <= np.uint64(tensor.hi - tensor.lo)
    out = []
    for cell in map(tuple, np.argwhere(~ok).tolist()):
        delta = int(change[cell])
        delta -= F.p if delta > F.p // 2 else 0
        if abs(delta) >= 1 << 24 or not worlds.evaluate_one(start, cell, delta, adaptive):
            out.append(cell)
    return out


def movable(case: Case) -> list[int]:
    """Tensors a dishonest prover may choose: those it commits in this task; a range task is about a commitment made before."""
    role = case.task.commitments[0][0] if case.task.kind == "range" else None
    return [t.index for t, op in zip(case.graph.tensors, case.graph.ops)
            if isinstance(op, Committed) or isinstance(op, Input) and op.commitment == role]


def chosen(case: Case, index: int) -> bool:
    """Whether every value in the declared range is a statement of its own: base weights and data, but not a tied head."""
    op = case.graph.ops[index]
    return isinstance(op, Input) and not (case.stage.toy.manifest.model.tied and (op.commitment, op.tensor_name) == ("head", "W"))
