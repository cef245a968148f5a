"""Proof parameters: one frozen `Params` per named profile, passed explicitly everywhere.

A profile fixes the row length ℓ, the codeword length n = 4ℓ and the number of queries t. Every opening of a
commitment spends t of its blinding coefficients, so a commitment with a budget of k openings has B = t·k of them and
a rate (ℓ + B)/n; `max_openings` is the largest budget at which the query error ((1 + rate)/2)^t (unique decoding,
Ligero) stays below 2^−100. The verifier accepts registered profiles only; tests call the inner schedule with toy ones.
"""

import math
from dataclasses import dataclass

from protocol.code import Code
from protocol.errors import VerificationError
from protocol.field import GOLDILOCKS, Field

MIN_BITS = 100


def query_bits(rate: float, queries: int) -> float:
    """−log2 ((1 + rate)/2)^t: proven soundness of t column queries at this rate."""
    return queries * (1.0 - math.log2(1.0 + rate))


@dataclass(frozen=True)
class Params:
    """ℓ cells a row, n columns, t queries, over one field."""

    name: str
    field: Field
    ell: int
    n: int
    queries: int

    def code(self, openings: int) -> Code:
        """The row code of a commitment that may be opened `openings` times."""
        return Code(self.field, self.ell, self.n, self.queries * openings)

    @property
    def max_openings(self) -> int:
        """Largest opening budget with at least MIN_BITS of query soundness."""
        k = 0
        while query_bits((self.ell + (k + 1) * self.queries) / self.n, self.queries) >= MIN_BITS:
            k += 1
        return k


PROFILES = {
    f"goldilocks-2^{log_ell}": Params(f"goldilocks-2^{log_ell}", GOLDILOCKS, 1 << log_ell, 4 << log_ell, queries)
    for log_ell, queries in ((10, 240), (11, 210), (12, 192), (13, 180), (14, 170), (16, 160), (18, 156), (20, 152))
}


def profile(name: str) -> Params:
    """A registered profile; anything else is refused."""
    if name not in PROFILES:
        raise VerificationError("parameters", "profile", " | ".join(PROFILES), name)
    return PROFILES[name]
