"""What the relation's files share: a graph under construction with the manifest's exponents and widths.

`Fixed` is a tensor with its number of fractional bits f: real value = tensor · 2^−f. `Context.rounded` is the one way
a sum of products becomes a committed value: align the summands, then `rescale` to the calibrated exponent.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from protocol.manifest import RunManifest, StepRange
from protocol.relation.graph import WITNESS, Graph, RelationError, Tensor
from protocol.relation.rounding import rescale


@dataclass(frozen=True)
class Fixed:
    """real value = t · 2^−f."""

    t: Tensor
    f: int


@dataclass(frozen=True)
class Context:
    """`prefix` is the key of this piece of the model among the exponents, e.g. "layer/3/"; `part` the part of each step, 0 for all."""

    g: Graph
    m: RunManifest
    steps: StepRange
    prefix: str
    part: int = 0

    @property
    def rows(self) -> tuple[int, int, int]:
        """(steps, batch, tokens): the leading axes s, b, t of every activation."""
        return self.steps.count, self.m.part_sequences, self.m.sequence_length

    def exponent(self, key: str) -> int:
        """Of this piece; a key that begins with "/" is taken from the root."""
        full = key[1:] if key.startswith("/") else self.prefix + key
        if full not in self.m.exponents:
            raise RelationError(f"the manifest has no exponent {full}")
        return self.m.exponents[full]

    def input(self, role: str, name: str, axes: str, shape: Sequence[int], width: str, key: str) -> Fixed:
        half = 1 << self.m.widths[width] - 1
        return Fixed(self.g.input(role, name, axes, shape, -half, half - 1), self.exponent(key))

    def add(self, name: str, axes: str, *terms: Fixed) -> Fixed:
        """Σ terms at the finest of their exponents (exact)."""
        f = max(term.f for term in terms)
        if len(terms) == 1 and terms[0].t.axes == axes:
            return terms[0]
        return Fixed(self.g.linear(name, axes, *[(1 << f - x.f, x.t) for x in terms]), f)

    def rounded(
        self, name: str, axes: str, terms: Sequence[Fixed], width: str, to: int | None = None,
        commitment: str = WITNESS, tensor_name: str | None = None,
    ) -> Fixed:
        """Σ terms, committed with `to` fractional bits (default: the exponent calibrated under `name`)."""
        f = self.exponent(name) if to is None else to
        total = self.add(name + ".exact", axes, *terms)
        bits = self.m.widths[width]
        return Fixed(rescale(self.g, total.t, total.f - f, bits, tensor_name or name, commitment), f)

    def product(self, name: str, spec: str, a: Fixed, b: Fixed) -> Fixed:
        return Fixed(self.g.product(name, spec, a.t, b.t), a.f + b.f)
