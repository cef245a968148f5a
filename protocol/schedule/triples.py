"""All products of pads at once (protocol.md 3): committed c_k really are a_k·b_k.

A and B interpolate the pads a_k, b_k of the T products at the points 0…T−1 and a masking pair of fresh pads at T; C = A·B
interpolates the committed c_k at 0…T and further committed values at T+1…2T. At a challenge τ outside these points A(τ)
and B(τ) are sent in clear (the masking pair makes them uniform) and three linear constraints follow, the third being
C(τ) = A(τ)·B(τ). Error 2T/|K|.
"""

from collections.abc import Callable
from itertools import accumulate
from math import factorial
from operator import mul

from protocol.channel import Cell, Channel, Form
from protocol.errors import VerificationError
from protocol.field import U64, Ext, Field
from protocol.schedule.constraints import ConstraintSystem


def lagrange(field: Field, count: int, at: Ext) -> list[Ext]:
    """Values at `at` of the Lagrange polynomials on the points 0…count−1: Π_{j≠k} (at − j)/(k − j)."""
    steps = [at - k for k in range(count)]
    before = list(accumulate(steps[:-1], mul, initial=field.one))
    after = list(accumulate(reversed(steps[1:]), mul, initial=field.one))
    inverse = [pow(factorial(count - 1), -1, field.p)]  # of the factorials, the largest first
    for k in range(count - 1, 0, -1):
        inverse.append(inverse[-1] * k % field.p)
    return [
        before[k] * after[count - 1 - k] * (inverse[count - 1 - k] * inverse[k] * (-1) ** (count - 1 - k)) for k in range(count)
    ]


def check_triples(channel: Channel, constraints: ConstraintSystem, values: Callable[[list[Ext]], U64]) -> None:
    """`values(weights)` is the prover's (A(τ), B(τ)), shape (2, 2): Σ weights·pads. Call after the last product."""
    field, total = channel.field, len(channel.products)
    channel.products.append((channel.take("pad", 1), channel.take("pad", 1)))
    tau = channel.challenge("triples/tau")
    if 2 * total + 1 > field.p:
        raise VerificationError("parameters", "triples", f"fewer than {field.p} points", str(2 * total + 1))
    if tau.c1 == 0 and tau.c0 <= 2 * total:
        raise VerificationError("zero-challenge", "triples/tau", "a point outside the nodes", repr(tau))
    small, large = lagrange(field, total + 1, tau), lagrange(field, 2 * total + 1, tau)
    sent = channel.clear("triples/values", 2, lambda: values(small))
    a_tau, b_tau = Ext.from_array(field, sent[:, 0]), Ext.from_array(field, sent[:, 1])
    for side, value in ((0, a_tau), (1, b_tau)):
        terms: dict[Cell, Ext] = {}
        for k, pair in enumerate(channel.products):
            cell: Cell = ("pad", pair[side])
            terms[cell] = terms.get(cell, field.zero) + small[k]
        constraints.require(Form(-value, terms), f"triples side {side}")
    product = {("product", k): large[k] for k in range(2 * total + 1)}
    constraints.require(Form(-(a_tau * b_tau), product), "triples product")
