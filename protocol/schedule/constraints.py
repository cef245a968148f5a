"""The list of linear statements that a proof comes down to.

A constraint says: form + Σ coef·⟨⊗weights, tensor⟩ = 0, where the form holds pads and the tensors are committed: *a known
linear combination of committed cells equals a known constant* (protocol.md 3). Claims on virtual tensors are pulled
through linear operations to committed tensors, public constants, and nonlinear atoms, each of which gets a hidden
value and a place in the next batch of sumchecks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import TypeAlias

from protocol.channel import Form
from protocol.field import U64, Ext

Weights: TypeAlias = tuple[U64, ...]  # one vector (2, n_a) per axis
Box: TypeAlias = tuple[tuple[int, int], ...]  # cells [start, stop) of each axis
Place: TypeAlias = tuple[str, str]  # (role of the commitment, tensor name)


def whole(shape: Sequence[int]) -> Box:
    """All cells."""
    return tuple((0, n) for n in shape)


def cells_of(box: Box) -> tuple[slice, ...]:
    """The box as an index of arrays."""
    return tuple(slice(start, stop) for start, stop in box)


@dataclass(frozen=True)
class CellTerm:
    """coef · Σ_x Π_a weights_a(x_a) · tensor(x); outside `box` the weights are zero, which spares a prover these cells."""

    coef: Ext
    place: Place
    weights: Weights
    box: Box


@dataclass(frozen=True)
class Constraint:
    form: Form
    terms: tuple[CellTerm, ...]
    where: str


@dataclass
class ConstraintSystem:
    """Everything that the opening has to prove, in the order of the schedule."""

    constraints: list[Constraint] = dataclass_field(default_factory=list)

    def require(self, form: Form, where: str, terms: tuple[CellTerm, ...] = ()) -> None:
        """form + Σ terms = 0."""
        self.constraints.append(Constraint(form, terms, where))
