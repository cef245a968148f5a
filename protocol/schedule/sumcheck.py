"""Sumcheck over affine forms: Σ_x g(x) = claim, most significant variable first (Thaler, ch. 4; Gruen eprint 2024/108).

A round polynomial of degree 2 is sent as g(1), g(2) and g(0) follows from the claim: claim = w0·g(0) + w1·g(1), with
(w0, w1) = (1, 1), or (1 − r_i, r_i) where a factor eq(r, x) was taken out. All values are forms, so the same code
is the private and the plain verifier. Called by gkr, products and opening.
"""

from typing import Protocol

from protocol.channel import Channel, Form
from protocol.errors import VerificationError
from protocol.field import Ext


class RoundProver(Protocol):
    """The prover's side of one sumcheck."""

    def round(self) -> tuple[Ext, Ext]:
        """(g(1), g(2)) of the current round polynomial."""

    def bind(self, r: Ext) -> None:
        """Fix the current variable to r."""


def round_step(
    channel: Channel, tag: str, weights: tuple[Ext, Ext], prover: RoundProver | None, pool: str
) -> tuple[Ext, Ext, list[tuple[Ext, Form]]]:
    """One round: the challenge r, the factor k and the parts Σ coef·form of g(r) = k·claim + Σ coef·form."""
    field = channel.field
    channel.rounds += 1
    g1, g2 = channel.secrets(tag, 2, lambda: prover.round() if prover else (), pool)
    r = channel.challenge(tag)
    if prover:
        prover.bind(r)
    square, half = r * r, field.p // 2 + 1
    l1, l2 = r + r - square, (square - r) * half  # r(2 − r), r(r − 1)/2
    l0 = 1 - l1 - l2  # (r − 1)(r − 2)/2: Lagrange's polynomials add up to 1
    if not weights[0]:
        raise VerificationError("zero-weight", tag, "1 − r ≠ 0", "0")
    k = l0 * weights[0].inverse()
    return r, k, [(l1 - weights[1] * k, g1), (l2, g2)]  # g(0) = (claim − w1·g(1))/w0


def sumcheck(
    channel: Channel, tag: str, claim: Form, variables: int, prover: RoundProver | None,
    eq_point: list[Ext] | None = None, pool: str = "pad",
) -> tuple[list[Ext], Form]:
    """`variables` rounds; returns the point and the claim that remains at it (without the eq factor).

    The claim is added up once behind the last round, each round's parts times the factors of the rounds after it."""
    one, parts = channel.field.one, list[tuple[Ext, Form]]()
    weights = [(one, one)] * variables if eq_point is None else [(1 - r, r) for r in eq_point]
    rounds = [round_step(channel, tag, weights[i], prover, pool) for i in range(variables)]
    factor = one
    for _, k, own in reversed(rounds):
        parts += [(coef * factor, form) for coef, form in own]
        factor = factor * k
    return [r for r, _, _ in rounds], Form.combination(channel.field, [(factor, claim), *parts])
