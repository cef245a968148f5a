"""How sure a proof is: proven error bounds by source, and the refusal of anything under 100 bits.

Round by round the largest error counts (`bits`); the sum over one proof is given beside it (`total_bits`). Sources,
with N = |K| and the rate (ℓ + B)/n of the most blinded commitment of the run:

    queries      ((1 + rate)/2)^t               unique decoding radius; t distinct columns (Ames et al. 2017)
    folding      n·(row variables + 1)/N        proximity under tensor coefficients (Diamond–Posen eprint 2023/630)
    lookups      fractions/N                    identity in α and β of each tree (Haböck eprint 2022/1530)
    sumcheck     3/N a round                    degree 2, and one for an eq factor
    batching     (constraints)/N                powers of λ, and of ρ for each batch of products
    combining    1/N                            λ and ρ of each tree level, γ, μ and ρ of the opening
    products     2T/N                           C = A·B at τ
    equality     variables/N                    zero and published tensors at a random point

Nothing here is conjectured: no list decoding, no "up to capacity".
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from protocol.errors import VerificationError
from protocol.layout import CommitmentLayout, TensorLayout
from protocol.params import MIN_BITS, Params, query_bits
from protocol.schedule.task import TaskShape


@dataclass(frozen=True)
class Soundness:
    """−log2 of the error of each source; `bits` is the smallest."""

    sources: dict[str, float]
    total_bits: float

    @property
    def bits(self) -> float:
        return min(self.sources.values())

    def to_json(self) -> dict[str, object]:
        """Canonical: hundredths of a bit, rounded down."""
        out: dict[str, object] = {name: math.floor(100 * bits) for name, bits in sorted(self.sources.items())}
        return {"centibits": out, "bits": math.floor(self.bits), "total_bits": math.floor(self.total_bits)}


def task_soundness(params: Params, shape: TaskShape, layouts: Sequence[CommitmentLayout], max_blinding: int) -> Soundness:
    """The error of one task's proof; `max_blinding` is the largest B of any commitment of the run."""
    size = 2 * math.log2(params.field.p)
    rate = (params.ell + max_blinding) / params.n
    variables = max(layout.variables for layout in layouts)
    row_variables = variables - (params.ell.bit_length() - 1)
    rounds = variables + shape.counts.rounds
    asserted = [z.tensor for z in shape.graph.zeros] + [item.tensor for item in shape.graph.published]
    points = [TensorLayout(tensor.shape).variables for tensor in asserted]
    fractions = [plan.fractions for plan in shape.plans]
    sources = {
        "queries": query_bits(rate, params.queries),
        "folding": size - math.log2(params.n * (row_variables + 1)),
        "lookups": size - math.log2(max(fractions, default=1)),
        "sumcheck": size - math.log2(3),
        "batching": size - math.log2(shape.counts.constraints),
        "combining": size,
        "products": size - math.log2(2 * len(shape.counts.products)),
        "equality": size - math.log2(max([*points, 1])),
    }
    levels = sum(plan.variables for plan in shape.plans)
    repeated = {
        "sumcheck": rounds, "equality": len(points), "batching": 1 + shape.counts.batches, "combining": 2 * levels + 3,
        "lookups": len(fractions) or 1,
    }
    error = sum(repeated.get(name, 1) * 2.0**-bits for name, bits in sources.items())
    return Soundness(sources, -math.log2(error))


def require_bits(soundness: Soundness, wanted: int, where: str) -> None:
    """VerificationError if fewer than max(wanted, 100) bits."""
    least = max(wanted, MIN_BITS)
    if soundness.bits < least:
        weakest = min(soundness.sources, key=lambda name: soundness.sources[name])
        raise VerificationError("soundness", where, f"at least {least} bits", f"{soundness.bits:.1f} ({weakest})")
