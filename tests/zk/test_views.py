"""The verifier's view is the same for every witness, exactly: equality of affine images over a toy field (p = 12289).

First half (masked values and A(τ), B(τ)), as a function of the pads:  first = M1·pads + (something of the witness).
M1 has full row rank, so the first half is uniform whatever the witness. Second half, for fixed pads and as a function of
the remaining randomness:  second = M2·(tail pads, masks, blinding) + offset,  M2 depending on challenges and first half
alone. Its image has as many dimensions as there are elements, less the verifier's public equations; for two witnesses
whose pads make the first half equal it is the same affine space. As every first half comes from equally many pads, the
two views have one distribution. The first half at which M2 is measured is one that the simulator made, and the
simulator's second half lies in that space too.

M1 follows from which cell masked which message; M2 is found by finite differences, one run of the real prover per
coordinate. That the real prover follows them, for both witnesses, is checked on random directions (error 1/p each, and
p is 12289: three directions leave 5·10^-13). Every control must break one of these checks.
"""

from dataclasses import dataclass

import numpy as np
import pytest

from protocol.field import U64
from protocol.relation.graph import IntArray
from protocol.schedule.lookups import TREE_BITS
from protocol.schedule.opening import tail_count
from protocol.schedule.triples import lagrange
from prover.simulator import ChosenChallenges, simulate_commitment, simulate_task
from tests.zk.harness import CONTROLS, PADS, TAILS_USED, TOY, Control, Key, Openings, Secret, Tape, ToyStatement, View, honest, view_of
from tests.zk.linear import in_span, rank, solve

P, FIELD = TOY.field.p, TOY.field
DIRECTIONS = 3
CHOSEN = ChosenChallenges(FIELD, b"rank test challenges".ljust(32))
# σ is one element of K; v1 and v2 are compared with the columns at t positions, in K
PUBLIC_EQUATIONS = 2 + 2 * 2 * TOY.queries


class Distinguishable(Exception):
    """The view depends on the witness."""


def difference(a: U64, b: U64) -> IntArray:
    return (a.astype(np.int64) - b.astype(np.int64)) % P


def times_x(rows: IntArray) -> IntArray:
    """The F-matrix [[c0, w·c1], [c1, c0]] of multiplication by c0 + c1·X."""
    c0, c1 = rows
    return np.array([[c0, FIELD.w * c1 % P], [c1, c0]])


@dataclass
class Lab:
    """A statement, one tape, and what has been found out about the honest prover's maps."""

    statement: ToyStatement
    tape: Tape
    keys: list[Key]
    second_map: IntArray  # (view elements, coordinates)
    simulated: View
    free_elements: int  # uniform elements of the simulated second half

    def perturbed(self, tape: Tape, vector: IntArray) -> Tape:
        """Add a vector of coordinates to the tape's arrays, pads excepted."""
        arrays, at = {}, 0
        for key in self.keys:
            old = tape.arrays[key]
            delta = vector[at : at + old.size].reshape(old.shape)
            arrays[key] = ((old.astype(np.int64) + delta) % P).astype(np.uint64)
            at += old.size
        return tape.with_arrays(arrays)

    def kept(self, control: Control) -> IntArray:
        """0/1 per coordinate: what a control leaves random."""
        ones = [control(key[1], np.ones_like(self.tape.arrays[key])).reshape(-1) for key in self.keys]
        return np.concatenate(ones).astype(np.int64)


def first_map(lab: Lab, masked: list[tuple[str, int]]) -> IntArray:
    """M1 (elements, pads as two planes): −1 at the pad of each message, Lagrange values at τ for the two triple sums."""
    shape, ahead = lab.statement.shape, CHOSEN.ahead()
    columns = shape.pads
    rows = []
    for pool, index in masked:
        assert pool == "pad"
        for plane in range(2):
            row = np.zeros(2 * columns, dtype=np.int64)
            row[plane * columns + index] = P - 1
            rows.append(row)
    weights = lagrange(FIELD, len(shape.counts.products), ahead.challenge("triples/tau"))
    for side in range(2):
        block = np.zeros((2, 2 * columns), dtype=np.int64)
        for weight, pair in zip(weights, shape.counts.products, strict=True):
            m = times_x(np.array([weight.c0, weight.c1]))
            for plane in range(2):
                block[:, plane * columns + pair[side]] += m[:, plane]
        rows += list(block % P)
    return np.array(rows)


def with_pads(tape: Tape, delta: IntArray) -> Tape:
    pads = tape.arrays[PADS].astype(np.int64) + delta.reshape(2, -1)
    return tape.with_arrays({PADS: (pads % P).astype(np.uint64)})


def check_first_half(lab: Lab, secret: Secret, control: Control) -> Openings:
    """The first half is uniform: Distinguishable otherwise."""
    tape = Tape(lab.tape.rng, control, lab.tape.arrays)
    start = Openings(lab.statement, secret, tape, CHOSEN)
    m1 = first_map(lab, start.masked)
    if len(m1) != len(start.first) or rank(m1, P) != len(m1):
        raise Distinguishable("two messages under one pad, or a triple sum without a mask")
    for _ in range(DIRECTIONS):
        delta = lab.tape.rng.integers(0, P, m1.shape[1])
        moved = Openings(lab.statement, secret, with_pads(tape, delta), CHOSEN)
        if not np.array_equal(difference(moved.first, start.first), m1 @ delta % P):
            raise Distinguishable("masked values do not follow their pads")
    return start


def check_views(lab: Lab, control: Control = honest) -> None:
    """Distinguishable unless both witnesses have exactly the same distribution of views."""
    tape = Tape(lab.tape.rng, control, lab.tape.arrays)
    secret_a, secret_b = lab.statement.secrets
    a, b = (check_first_half(lab, secret, control) for secret in (secret_a, secret_b))
    m1 = first_map(lab, a.masked)
    tape_b = with_pads(tape, solve(m1, difference(a.first, b.first), P))
    b = Openings(lab.statement, secret_b, tape_b, CHOSEN)
    if not np.array_equal(a.first, b.first):
        raise Distinguishable("no pads make the first halves equal")
    m2 = lab.second_map * lab.kept(control)[None]
    for opening, start in ((a, tape), (b, tape_b)):
        before = opening.second(start)
        for _ in range(DIRECTIONS):
            delta = lab.tape.rng.integers(0, P, m2.shape[1])
            after = opening.second(lab.perturbed(start, delta))
            if not np.array_equal(difference(after, before), m2 @ delta % P):
                raise Distinguishable("the second half is not the affine map that was measured")
    if not in_span(difference(b.second(tape_b), a.second(tape)), m2.T, P):
        raise Distinguishable("the images of two witnesses are different affine spaces")
    if rank(m2, P) != len(m2) - PUBLIC_EQUATIONS:
        raise Distinguishable(f"rank {rank(m2, P)} of {len(m2) - PUBLIC_EQUATIONS}")


@pytest.fixture(scope="module", params=[TREE_BITS, 6], ids=["one tree", "two trees"])
def lab(request: pytest.FixtureRequest) -> Lab:
    statement = ToyStatement(TOY, request.param)
    secret, tape = statement.secrets[0], Tape(np.random.default_rng(20))
    messages = simulated_messages(statement, [(tag, len(data)) for tag, data in statement.record(secret, tape, CHOSEN).messages])
    free = sum(len(data) // 8 for tag, data in messages if tag in ("opening/round", "opening/ends", "opening/v1", "opening/v2"))
    free += TOY.queries * (len(statement.base_layout.rows) + len(statement.witness_layout.rows) + 2)  # P' over K: two rows
    keys, unmeasured = [key for key in tape.arrays if key != PADS], np.zeros((0, 0), dtype=np.int64)
    out = Lab(statement, tape, keys, unmeasured, view_of(FIELD, messages), free)
    start = Openings(statement, secret, tape, CHOSEN)
    out.tape = with_pads(tape, solve(first_map(out, start.masked), difference(out.simulated.first, start.first), P))
    opening = Openings(statement, secret, out.tape, CHOSEN)
    before = opening.second(out.tape)
    unit = np.eye(sum(tape.arrays[key].size for key in out.keys), dtype=np.int64)
    out.second_map = np.stack([difference(opening.second(out.perturbed(out.tape, e)), before) for e in unit], axis=1)
    return out


def simulated_messages(statement: ToyStatement, sizes: list[tuple[str, int]]) -> list[tuple[str, bytes]]:
    """A simulated proof cut into messages."""
    positions = CHOSEN.positions(TOY.n, TOY.queries)
    base = simulate_commitment(statement.base_layout, positions, b"base".ljust(32))
    proof = simulate_task(
        statement.shape, b"toy", [("base", base)], TOY, statement.published, CHOSEN,
        b"simulated".ljust(32),
    ).proof
    messages, at = [], 0
    for tag, size in sizes:
        messages.append((tag, proof[at : at + size]))
        at += size
    assert at == len(proof)
    return messages


def test_trees_share_tables_and_no_pads(lab: Lab) -> None:
    """With the smaller limit two trees look up one table; every element sent before the opening has a pad of its own."""
    plans = lab.statement.shape.plans
    assert (len(plans) > 1) == (lab.statement.tree_bits < TREE_BITS)
    assert len(plans) == 1 or set(plans[0].tables) & set(plans[1].tables)
    masked = Openings(lab.statement, lab.statement.secrets[0], lab.tape, CHOSEN).masked
    assert sorted(masked) == [("pad", k) for k in range(lab.statement.shape.pads - 2)]


def test_two_witnesses_have_one_view(lab: Lab) -> None:
    check_views(lab)


@pytest.mark.parametrize("name", CONTROLS)
def test_every_control_is_noticed(lab: Lab, name: str) -> None:
    first_half = CONTROLS[name]("pads", lab.tape.arrays[PADS]) is not lab.tape.arrays[PADS]
    with pytest.raises(Distinguishable, match="do not follow" if first_half else "different affine spaces"):
        check_views(lab, CONTROLS[name])


def test_the_controls_are_what_they_say(lab: Lab) -> None:
    assert tail_count([lab.statement.base_layout, lab.statement.witness_layout]) == TAILS_USED
    assert lab.statement.shape.counts.products[-1] == (lab.statement.shape.pads - 2, lab.statement.shape.pads - 1)


def test_the_witnesses_differ_where_it_matters(lab: Lab) -> None:
    a, b = lab.statement.secrets
    by_name = {t.name: (a.values[t.index], b.values[t.index]) for t in lab.statement.graph.tensors}
    assert all(not np.array_equal(*by_name[name]) for name in ("base/W", "X", "Y", "H1", "H2", "Z"))
    assert all(np.array_equal(*by_name[name]) for name in ("loss", "seen"))


def test_a_later_opening_of_the_same_input_learns_nothing_new(lab: Lab) -> None:
    """Without any randomness of the input commitment the second half loses exactly the input's own columns: nothing else
    that is sent depends on that randomness being fresh. Its columns at B positions are uniform (test_exhaustive), so
    the views of all openings within the budget are jointly those of any other witness."""
    fresh = np.concatenate([np.full(lab.tape.arrays[key].size, key[0] == PADS[0]) for key in lab.keys])
    own = len(lab.statement.base_layout.rows) * TOY.queries
    assert rank(lab.second_map[:, fresh], P) == len(lab.second_map) - PUBLIC_EQUATIONS - own


def test_the_simulator_fills_the_same_space(lab: Lab) -> None:
    """A simulated proof is a possible honest view, for either witness; as it has as many uniform free elements as the image
    has dimensions (v1, v2, tail-masked values, free columns), its distribution is the honest one."""
    for secret in lab.statement.secrets:
        start = Openings(lab.statement, secret, lab.tape, CHOSEN)
        tape = with_pads(lab.tape, solve(first_map(lab, start.masked), difference(lab.simulated.first, start.first), P))
        opening = Openings(lab.statement, secret, tape, CHOSEN)
        assert np.array_equal(opening.first, lab.simulated.first)
        assert in_span(difference(lab.simulated.second, opening.second(tape)), lab.second_map.T, P)
    assert lab.free_elements == rank(lab.second_map, P)
