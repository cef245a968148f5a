"""The operations of prover/executor/reference.py in torch, on CPU or GPU, equal bit for bit.

Contractions run as float64 matrix products when the operands' actual maxima show that every partial sum is an integer
below 2^53 (then float64 is exact in any order of summation); otherwise the larger operand is split in two halves of its
bits until they do. Everything else is int64. On a GPU this needs real double precision: no library may be told to emulate it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from protocol.relation.graph import AxisMap, IntArray, Linear, Product
from protocol.relation.tables import softmax_limit, table_columns

EXACT = 1 << 53


class TorchOps:
    """Values are torch int64 tensors on `device`, where results stay if `keep` is set: the prover's backend shares them."""

    def __init__(self, device: str = "cpu", keep: bool = False) -> None:
        self.device, self.keep = device, keep
        self._tables: dict[str, list[torch.Tensor]] = {}

    def load(self, array: IntArray | torch.Tensor) -> torch.Tensor:
        if isinstance(array, torch.Tensor):  # an earlier result
            return array.to(self.device)
        held = np.require(array, np.int64, ["C", "W"])  # shared where it can be: nothing writes to it
        return torch.from_numpy(held if min(held.strides, default=0) >= 0 else held.copy()).to(self.device)

    def store(self, array: torch.Tensor) -> IntArray:
        return np.ascontiguousarray(array.cpu().numpy())

    def result(self, array: torch.Tensor) -> Any:
        return array.contiguous() if self.keep else self.store(array)

    def join(self, parts: Sequence[Any]) -> Any:
        return torch.cat(list(parts)) if self.keep else np.concatenate(parts)

    def extent(self, array: torch.Tensor) -> tuple[int, int]:
        low, high = torch.aminmax(array)
        return int(low), int(high)

    def _columns(self, table: str) -> list[torch.Tensor]:
        if table not in self._tables:
            self._tables[table] = [self.load(column) for column in table_columns(table)]
        return self._tables[table]

    def linear(self, op: Linear, values: Sequence[Any], axes: str, shape: tuple[int, ...]) -> torch.Tensor:
        out = torch.full(shape, op.const, dtype=torch.int64, device=self.device)
        for term, value in zip(op.terms, values, strict=True):
            gone = [i for i, a in enumerate(term.axes) if a not in axes]
            left = [a for a in term.axes if a in axes]
            part = value.sum(dim=gone) if gone else value
            part = part.permute([left.index(a) for a in axes if a in left])
            part = part.reshape([shape[i] if a in left else 1 for i, a in enumerate(axes)])
            for axis, vector in term.vectors:
                part = part * self.load(vector).reshape([-1 if a == axis else 1 for a in axes])
            out.add_(part.expand(shape), alpha=term.coef)
        return out

    def axis_map(self, op: AxisMap, value: torch.Tensor | None, shape: tuple[int, ...]) -> torch.Tensor:
        out = torch.zeros(shape, dtype=torch.int64, device=self.device)
        if value is not None:
            vals = self.load(op.vals).reshape([-1 if i == op.axis else 1 for i in range(len(shape))])
            out.index_add_(op.axis, self.load(op.rows), value.index_select(op.axis, self.load(op.cols)) * vals)
        return out

    def gather(self, value: torch.Tensor, index: IntArray) -> torch.Tensor:
        return value[self.load(index)]

    def product(self, op: Product, a: torch.Tensor, b: torch.Tensor, axes: str) -> torch.Tensor:
        contracted = [x for x in op.a_axes if x not in axes]
        if not contracted:
            return self._aligned(a, op.a_axes, axes) * self._aligned(b, op.b_axes, axes)
        count = 1
        for axis in contracted:
            count *= a.shape[op.a_axes.index(axis)]
        return self._contract(f"{op.a_axes},{op.b_axes}->{axes}", count, a, b)

    def _contract(self, spec: str, count: int, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        size_a, size_b = (max(abs(v) for v in self.extent(x)) for x in (a, b))
        if size_a * size_b * count < EXACT:
            return torch.einsum(spec, a.double(), b.double()).to(torch.int64)
        shift = max(size_a, size_b).bit_length() // 2
        split = a if size_a >= size_b else b
        high, low = split >> shift, split & ((1 << shift) - 1)
        parts = [self._contract(spec, count, x, b) if size_a >= size_b else self._contract(spec, count, a, x)
                 for x in (high, low)]
        return (parts[0] << shift) + parts[1]

    @staticmethod
    def _aligned(value: torch.Tensor, axes: str, out: str) -> torch.Tensor:
        order = value.permute([axes.index(a) for a in out if a in axes])
        sizes = iter(order.shape)
        return order.reshape([next(sizes) if a in axes else 1 for a in out])

    def one_hot(self, high: torch.Tensor, low: torch.Tensor, size: int) -> torch.Tensor:
        return (high.unsqueeze(-1) * low.unsqueeze(-2)).flatten(-2)[..., :size].contiguous()

    def round_shift(self, z: torch.Tensor, shift: int) -> torch.Tensor:
        return (z + (1 << shift - 1)) >> shift if shift > 0 else z << -shift

    def limb(self, t: torch.Tensor, shift: int, bits: int) -> torch.Tensor:
        return (t >> shift) & ((1 << bits) - 1)

    def rsqrt(self, v: torch.Tensor, target: int) -> torch.Tensor:
        quotient = torch.div(torch.full_like(v, target), v, rounding_mode="floor")
        return (self.isqrt(quotient) + 1) >> 1

    def isqrt(self, v: torch.Tensor) -> torch.Tensor:
        root = v.double().sqrt().to(torch.int64)
        root = root - (root * root > v).to(torch.int64)
        return root + ((root + 1) * (root + 1) <= v).to(torch.int64)

    def divide(self, numerator: torch.Tensor, divisor: torch.Tensor) -> torch.Tensor:
        return torch.div(numerator, divisor, rounding_mode="floor")

    def maximum(self, d: torch.Tensor, limit: int) -> torch.Tensor:
        return d.clamp(min=limit)

    def table(self, x: torch.Tensor, table: str) -> list[torch.Tensor]:
        columns = self._columns(table)
        index = x - int(columns[0][0])
        return [column[index] for column in columns[1:]]

    def softmax_shift(self, s: torch.Tensor, mask: torch.Tensor | None, g: int, bits: int) -> torch.Tensor:
        """A float64 guess, corrected until Σ T[z − s] ≤ K < Σ T[z − 1 − s] holds exactly in every row."""
        table, limit = self._columns(f"exp:{g}:{bits}")[1], softmax_limit(g, bits)
        kept = torch.ones_like(s, dtype=torch.bool) if mask is None else (mask == 1).expand(s.shape)
        far = torch.where(kept, s, torch.iinfo(torch.int64).min // 2)
        top = far.amax(dim=-1, keepdim=True)
        spread = torch.exp2((far - top).double() * (1.4426950408889634 * 2.0**-g)).sum(dim=-1, keepdim=True)
        z = top + (spread.log() * 2.0**g).round().to(torch.int64)

        def fits(at: torch.Tensor) -> torch.Tensor:
            sums = table[(at - far).clamp(0, 65535)].sum(dim=-1, keepdim=True)
            return (sums <= limit) & (at >= top)

        while not bool((good := fits(z)).all()):
            z = z + (~good).to(torch.int64)
        while bool((good := fits(z - 1)).any()):
            z = z - good.to(torch.int64)
        return z.squeeze(-1)

    def digits(self, ids: torch.Tensor, base: int, sizes: tuple[int, int]) -> list[torch.Tensor]:
        pair = (torch.div(ids, base, rounding_mode="floor"), ids % base)
        ranges = [torch.arange(n, device=self.device) for n in sizes]
        return [(d.unsqueeze(-1) == n).to(torch.int64) for d, n in zip(pair, ranges, strict=True)]


def ops_beside(backend: str) -> TorchOps:
    """The executor for a prover on that backend: on the same device, its results left there, where torch can use it."""
    return TorchOps("cuda", keep=True) if backend == "cuda" and torch.cuda.is_available() else TorchOps()
