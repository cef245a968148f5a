"""Every witness of a small graph, over a small prime field: inputs are fixed, committed cells range over all of F_q.

The prime is to the graph's bound what p is to 2^62: the largest below four times the bound, which is the smallest power of two
that the graph can be built with. So a value that would wrap in a relation that is built too loosely wraps here.

Each assertion is a condition on polynomials in the cells. The search always takes the cell with the fewest candidates: those a
condition leaves in which nothing else is unknown and the cell is linear, or its whole domain. It is complete.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from functools import cached_property
from itertools import product
from unittest.mock import patch

import numpy as np

from protocol.relation import graph as graph_module
from protocol.relation import rounding
from protocol.relation.graph import (
    AxisMap,
    Committed,
    Gather,
    Graph,
    Input,
    IntArray,
    Linear,
    OneHot,
    Product,
    Public,
    RelationError,
)

Poly = dict[tuple[int, ...], int]  # monomials (sorted variable numbers) → coefficient
Tables = Callable[[str], tuple[IntArray, ...]]
LARGEST = 1 << 11


def range_table(name: str) -> tuple[IntArray, ...]:
    kind, bits = name.split(":")
    if kind != "range":
        raise ValueError(name)
    return (np.arange(1 << int(bits)),)


def prime_below(n: int) -> int:
    return next(k for k in range(n - 1, 1, -1) if all(k % d for d in range(2, int(k**0.5) + 1)))


class Undecided(Exception):
    """More than LARGEST values of this tensor would have to be tried one by one."""


@dataclass(frozen=True)
class Condition:
    """The tuple of polynomials is a row; `firsts` are the rows' first columns."""

    polys: tuple[Poly, ...]
    rows: frozenset[tuple[int, ...]]
    firsts: tuple[int, ...]
    unknown: frozenset[int]

    def reduced(self, known: Mapping[int, int], q: int) -> "Condition":
        polys = tuple(reduce(p, known, q) for p in self.polys)
        return Condition(polys, self.rows, self.firsts, frozenset(n for p in polys for m in p for n in m))

    def candidates(self, q: int) -> tuple[int, set[int]] | None:
        """A cell and the values of it that can satisfy the condition (a superset, which is checked again); None: any of F_q."""
        rows = None
        for k, p in enumerate(self.polys):
            if len(p.keys() - {()}) == 1 and all(len(m) < 2 for m in p):
                (n,), = p.keys() - {()}
                inverse = pow(p[n,], -1, q)
                if rows is None and len(self.polys) > 1:
                    fixed = [(j, x.get((), 0)) for j, x in enumerate(self.polys) if all(m == () for m in x)]
                    rows = [row for row in self.rows if all(row[j] == v for j, v in fixed)]
                values = self.firsts if rows is None else {row[k] for row in rows}
                return n, {(v - p.get((), 0)) * inverse % q for v in values}
        return None


def reduce(poly: Poly, known: Mapping[int, int], q: int) -> Poly:
    out: Poly = {}
    for monomial, c in poly.items():
        rest = []
        for n in monomial:
            if n in known:
                c = c * known[n] % q
            else:
                rest.append(n)
        key = tuple(rest)
        out[key] = (out.get(key, 0) + c) % q
    return {m: c for m, c in out.items() if c}


@dataclass(eq=False)
class Search:
    """`unknown`: inputs that the dishonest prover chooses too, by tensor name. `ignored`: cells nobody reads."""

    graph: Graph
    q: int
    tables: Tables = range_table
    unknown: frozenset[str] = frozenset()
    ignored: Callable[[str, tuple[int, ...]], bool] = lambda name, cell: False
    cells: dict[tuple[int, tuple[int, ...]], int] = dataclass_field(default_factory=dict)

    @staticmethod
    def build(
        make: Callable[[Graph], None], patches: Sequence[tuple[object, str, object]] = (), limb: int = 3, **options: object
    ) -> "Search":
        """The graph with limbs of `limb` bits and the smallest bound it can be built with."""
        for bits in range(3, 40):
            with ExitStack() as stack:
                stack.enter_context(patch.object(rounding, "LIMB", limb))
                stack.enter_context(patch.object(graph_module, "BOUND", 1 << bits))
                for target, name, value in patches:
                    stack.enter_context(patch.object(target, name, value))
                graph = Graph()
                try:
                    make(graph)
                except RelationError as error:
                    if "the limit is" not in str(error):
                        raise
                    continue
                return Search(graph, prime_below(4 << bits), **options)  # type: ignore[arg-type]
        raise AssertionError("no bound is large enough")

    @cached_property
    def variables(self) -> list[tuple[int, tuple[int, ...]]]:
        return [(t.index, cell) for t, op in zip(self.graph.tensors, self.graph.ops) if isinstance(op, Input | Committed)
                for cell in np.ndindex(t.shape)]

    @cached_property
    def number(self) -> dict[tuple[int, tuple[int, ...]], int]:
        return {key: n for n, key in enumerate(self.variables)}

    @cached_property
    def polys(self) -> list[np.ndarray]:
        """Per tensor an object array of polynomials modulo q."""
        return [self._tensor(i) for i in range(len(self.graph.tensors))]

    def _tensor(self, i: int) -> np.ndarray:
        made: list[np.ndarray] = self.__dict__.setdefault("_made", [])
        tensor, op = self.graph.tensors[i], self.graph.ops[i]
        out = np.empty(tensor.shape, dtype=object)
        for cell in np.ndindex(tensor.shape):
            if isinstance(op, Input | Committed):
                out[cell] = {(self.number[i, cell],): 1}
            elif isinstance(op, Public):
                out[cell] = self._clean({(): int(op.values[cell])})
            elif isinstance(op, Linear):
                out[cell] = self._linear(op, dict(zip(tensor.axes, cell)), made)
            elif isinstance(op, AxisMap):
                total: Poly = {}
                for row, col, value in zip(op.rows.tolist(), op.cols.tolist(), op.vals.tolist()):
                    if row == cell[op.axis]:
                        self._add(total, made[op.tensor.index][(*cell[: op.axis], col, *cell[op.axis + 1:])], value)
                out[cell] = self._clean(total)
            elif isinstance(op, Gather):
                out[cell] = made[op.tensor.index][(int(op.index[cell[:2]]), *cell[2:])]
            elif isinstance(op, OneHot):
                base = op.low.shape[-1]
                out[cell] = self._times(made[op.high.index][(*cell[:-1], cell[-1] // base)],
                                        made[op.low.index][(*cell[:-1], cell[-1] % base)])
            elif isinstance(op, Product):
                out[cell] = self._product(op, dict(zip(tensor.axes, cell)), made)
        made.append(out)
        return out

    def _add(self, total: Poly, part: Poly, coef: int) -> None:
        for monomial, c in part.items():
            total[monomial] = total.get(monomial, 0) + c * coef

    def _clean(self, poly: Poly) -> Poly:
        return {m: c % self.q for m, c in poly.items() if c % self.q}

    def _times(self, a: Poly, b: Poly) -> Poly:
        out: Poly = {}
        for (m, c), (n, d) in product(a.items(), b.items()):
            key = tuple(sorted(m + n))
            out[key] = out.get(key, 0) + c * d
        return self._clean(out)

    def _linear(self, op: Linear, at: dict[str, int], made: list[np.ndarray]) -> Poly:
        total: Poly = {(): op.const}
        for term in op.terms:
            coef = term.coef
            for axis, vector in term.vectors:
                coef *= int(vector[at[axis]])
            spread = [(at[a],) if a in at else range(n) for a, n in zip(term.axes, term.tensor.shape)]
            for cell in product(*spread):
                self._add(total, made[term.tensor.index][cell], coef)
        return self._clean(total)

    def _product(self, op: Product, at: dict[str, int], made: list[np.ndarray]) -> Poly:
        sizes = dict(zip(op.a_axes, op.a.shape)) | dict(zip(op.b_axes, op.b.shape))
        summed = [a for a in sizes if a not in at]
        total: Poly = {}
        for values in product(*(range(sizes[a]) for a in summed)):
            full = at | dict(zip(summed, values))
            a = made[op.a.index][tuple(full[x] for x in op.a_axes)]
            self._add(total, self._times(a, made[op.b.index][tuple(full[x] for x in op.b_axes)]), 1)
        return self._clean(total)

    def conditions(self, graph: Graph) -> list[Condition]:
        """The assertions of `graph`, which is this one with some left out."""
        polys, out = self.polys, list[Condition]()

        def add(found: tuple[Poly, ...], rows: frozenset[tuple[int, ...]], firsts: tuple[int, ...]) -> None:
            out.append(Condition(found, rows, firsts, frozenset(n for p in found for m in p for n in m)))

        for zero in graph.zeros:
            for p in polys[zero.tensor.index].reshape(-1):
                add((p,), frozenset({(0,)}), (0,))
        for lookup in graph.lookups:
            columns = self.tables(lookup.table)
            rows = frozenset(tuple(int(c[j]) % self.q for c in columns[: len(lookup.columns)]) for j in range(len(columns[0])))
            firsts = tuple(sorted({row[0] for row in rows}))
            for cell in np.ndindex(lookup.columns[0].shape):
                add(tuple(polys[c.index][cell] for c in lookup.columns), rows, firsts)
        return out

    def outputs(self, inputs: Mapping[str, int | IntArray], graph: Graph | None = None, most: int = 2) -> list[dict[str, object]]:
        """Up to `most` different witnesses for these inputs, {tensor name: values}; ignored cells left out of the comparison."""
        known: dict[int, int] = {}
        for (i, cell), n in self.number.items():
            full = self.graph.tensors[i].name
            name = full.split("/")[-1]
            if isinstance(self.graph.ops[i], Input) and name not in self.unknown:
                values = np.asarray(inputs[full] if full in inputs else inputs[name]).reshape(self.graph.tensors[i].shape)
                known[n] = int(values[cell]) % self.q
        found: dict[tuple[int, ...], dict[str, object]] = {}
        kept = [n for n, (i, cell) in enumerate(self.variables) if not self.ignored(self.graph.tensors[i].name, cell)]
        for solution in self._solve(self.conditions(graph or self.graph), known, set(kept)):
            key = tuple(solution.get(n, 0) for n in kept)
            if key not in found:
                named: dict[str, list[int]] = {}
                for n in kept:
                    value = solution[n]
                    named.setdefault(self.graph.tensors[self.variables[n][0]].name, []).append(value - self.q * (value > self.q // 2))
                found[key] = dict(named)
            if len(found) >= most:
                break
        return list(found.values())

    def _solve(self, conditions: list[Condition], known: dict[int, int], wanted: set[int], last: int = -1) -> Iterator[dict[int, int]]:
        remaining = []
        best: tuple[int, set[int]] | None = None
        for condition in conditions:
            if last < 0 or last in condition.unknown:
                condition = condition.reduced({last: known[last]} if last >= 0 else known, self.q)
            if not condition.unknown:
                if tuple(p.get((), 0) for p in condition.polys) not in condition.rows:
                    return
                continue
            remaining.append(condition)
            found = condition.candidates(self.q)
            if found is not None and (best is None or len(found[1]) < len(best[1])):
                best = found
        if best is None:
            pending = {n for c in remaining for n in c.unknown}
            loose = wanted - known.keys() - pending
            if not pending | loose:
                yield known
                return
            if not loose and self.q > LARGEST:
                raise Undecided(self.graph.tensors[self.variables[min(pending)][0]].name)
            best = min(loose or pending), set(range(2 if loose else self.q))  # a cell in no condition may have any two values
        variable, values = best
        for value in sorted(values):
            yield from self._solve(remaining, known | {variable: value}, wanted, variable)


def left_out(search: Search, name: str) -> Graph:
    """The graph without the assertion whose first tensor has this name."""
    g = search.graph
    out = Graph(g.tensors, g.ops, g.hints, [x for x in g.lookups if x.columns[0].name != name],
                [x for x in g.zeros if x.tensor.name != name], g.published)
    if len(out.lookups) + len(out.zeros) >= len(g.lookups) + len(g.zeros):
        raise ValueError(name)
    return out


def assertions(search: Search) -> list[str]:
    return sorted({x.columns[0].name for x in search.graph.lookups} | {x.tensor.name for x in search.graph.zeros})
