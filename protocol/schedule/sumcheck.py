"""Sumcheck over affine forms: Σ_x g(x) = claim, most significant variable first (Thaler, ch. 4; Gruen eprint 2024/108).

A round polynomial of degree 2 is sent as g(1), g(2) and g(0) follows from the claim: claim = w0·g(0) + w1·g(1), with
(w0, w1) = (1, 1), or (1 − r_i, r_i) where a factor eq(r, x) was taken out. All values are forms, so the same code
is the private and the plain verifier. Called by gkr, products and opening.
"""

from protocol.channel import Channel, Form, RoundProver
from protocol.errors import VerificationError
from protocol.field import Ext


def sumcheck(
    channel: Channel, tag: str, claim: Form, variables: int, prover: RoundProver | None,
    eq_point: list[Ext] | None = None, pool: str = "pad",
) -> tuple[list[Ext], Form]:
    """`variables` rounds; returns the point and the claim that remains at it (without the eq factor).

    The claim is added up once behind the last round, each round's part times the factors of the rounds after it."""
    if eq_point and 1 in eq_point:
        raise VerificationError("zero-weight", tag, "1 − r ≠ 0", "0")
    point, messages, pads = channel.play(tag, variables, prover, pool)
    factor, const, coefs = channel.field.sumcheck_end(point, eq_point, messages)
    claimed = {cell: value * factor for cell, value in claim.terms.items()}
    return point, Form(factor * claim.const + const, claimed | dict(zip(pads, coefs, strict=True)))
