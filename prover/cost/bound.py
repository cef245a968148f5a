"""The least that a task's counted work takes: bytes moved, products in F, compressions of SHA-256, from the algorithms alone.

    a cell encoded     (log2 ℓ)/2 + 4·(log2 n)/2 products; 8 bytes read, 32 written and read again for the leaves
    a leaf             14 products in K, each four in F: 2 to build the tree, 12 for its rounds (docs/log.md, "Lookups");
                       16 bytes written, and 32 for the levels above it, all read twice and half written once while folding
    a cell folded      2 products, 8 bytes
    an entry of a table  one round of two products and one fold in K: 12 products; read twice, half of it written
    a weighted cell    one product in K, nothing to be read or written: weights are used where they are made
    a cell opened      18 products for the sums of four cells, six to fold one; 8 bytes, twice; then half an entry of a table

A device's bound is the larger of bytes over bandwidth and the sum of products and compressions over their rates. Called by
benchmarks/gpu.py.
"""

from dataclasses import dataclass

from protocol.params import Params
from prover.cost.work import Work

RATE = 4  # n / ℓ in every profile


@dataclass(frozen=True)
class Bound:
    """What has to be moved and computed."""

    bytes: float
    products: float
    compressions: float

    def seconds(self, bandwidth: float, products: float, compressions: float) -> float:
        """On a machine with these rates a second."""
        return max(self.bytes / bandwidth, self.products / products + self.compressions / compressions)


def bound(work: Work, params: Params) -> Bound:
    """Of the work of one or several tasks under one profile."""
    butterflies = (params.ell.bit_length() - 1) / 2 + RATE * (params.n.bit_length() - 1) / 2
    opened = min(work.opened, work.encoded)  # virtual cells without a row could cost nothing
    return Bound(
        bytes=work.encoded * (8 + 2 * 8 * RATE) + work.leaves * 48 * 3.5 + work.folded * 8 + work.tables * 16 * 2.5
        + opened * (8 * 2 + 16 * 2.5 / 2),
        products=work.encoded * butterflies + work.leaves * 14 * 4 + work.folded * 2 + work.tables * 12 + work.weighted * 4
        + opened * (18 / 4 + 6 + 12 / 2),
        compressions=work.hashed,
    )
