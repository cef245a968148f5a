"""LogUp-GKR: a sum of fractions is zero (Papini–Haböck eprint 2023/1930; protocol.md 5).

A binary tree adds fractions p/q from 2^m leaves to a root whose numerator is the public constant 0 and whose
denominator is hidden. The node x of a level is the sum of the nodes (0, x) and (1, x) below it:

    p(x) = p(0,x)·q(1,x) + p(1,x)·q(0,x),   q(x) = q(0,x)·q(1,x).

At each level a claim on (p, q) at a point becomes, by one sumcheck of λ·p + q, a claim at a point one variable longer.
Sending a = λ·p0 + q0 in place of p0 needs two products of secrets instead of three: the end claim is a·q1 + λ·p1·q0.
No zero test of the root denominator is needed: Σ ±m/(α − φ) = 0 is an identity of rational functions in α, β, which
the root numerator's polynomial tests with error (leaves)/|K|.
"""

from typing import Protocol

import numpy as np

from protocol.channel import Channel, Form, RoundProver
from protocol.errors import VerificationError
from protocol.field import U64, Ext
from protocol.schedule.constraints import ConstraintSystem
from protocol.schedule.sumcheck import sumcheck


class TreeProver(RoundProver, Protocol):
    """The prover's side: levels of the tree, top first."""

    def root(self) -> Ext:
        """The root's denominator."""

    def descend(self, level: int, point: list[Ext], lam: Ext) -> None:
        """Start the sumcheck of `level` (2^level nodes) at `point`."""

    def ends(self) -> tuple[Ext, Ext, Ext, Ext]:
        """(λ·p0 + q0, q1, p1, q0) at the bound point."""


def as_point(coordinates: list[Ext]) -> U64:
    """Coordinates as an array (2, m)."""
    return np.array([[x.c0 for x in coordinates], [x.c1 for x in coordinates]], dtype=np.uint64).reshape(2, -1)


def prove_fraction_tree(
    channel: Channel, constraints: ConstraintSystem, variables: int, tree: TreeProver | None
) -> tuple[list[Ext], Form, Form]:
    """Returns the leaf point and the forms of numerator and denominator there."""
    (q,) = channel.secrets("tree/root", 1, lambda: [tree.root()] if tree else ())
    p, point, one = Form(channel.field.zero), list[Ext](), channel.field.one
    for level in range(variables):
        lam = channel.challenge("tree/lambda")
        if not lam:
            raise VerificationError("zero-challenge", "tree/lambda", "λ ≠ 0", "0")
        if tree:
            tree.descend(level, point, lam)
        bound, claim = sumcheck(channel, "tree/round", Form.combination(channel.field, [(lam, p), (one, q)]), level, tree, point)
        a, q1, p1, q0 = channel.secrets("tree/ends", 4, lambda: tree.ends() if tree else ())
        ends = [(one, claim), (-one, channel.multiply(a, q1)), (-lam, channel.multiply(p1, q0))]
        constraints.require(Form.combination(channel.field, ends), "tree level")
        rho = channel.challenge("tree/rho")
        of_p0 = (one - rho) * lam.inverse()  # p0 = (a − q0)/λ
        p = Form.combination(channel.field, [(of_p0, a), (-of_p0, q0), (rho, p1)])
        q = Form.combination(channel.field, [(one - rho, q0), (rho, q1)])
        point = [rho, *bound]
    return point, p, q
