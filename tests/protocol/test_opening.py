"""The opening's tail, its combined weights at a point, and when its checks speak (whole openings: test_claims.py, tests/attacks)."""

import tracemalloc

import numpy as np
import pytest

from protocol.channel import Form
from protocol.code import Code
from protocol.errors import VerificationError
from protocol.field import GOLDILOCKS, U64, Ext
from protocol.layout import CommitmentLayout, Corners, Vectors
from protocol.schedule.constraints import CellTerm, ConstraintSystem, whole
from protocol.schedule.opening import CombinedWeights, Committed, check_columns, check_equal, combine, tail_code, tail_count

F = GOLDILOCKS
WITNESS = Code(F, 64, 256, 20)


@pytest.mark.parametrize(("tails", "ell"), [(1, 2), (2, 2), (3, 4), (4, 4), (5, 8), (8, 8), (9, 16), (16, 16), (17, 32)])
def test_the_tail_s_code_is_the_shortest_that_holds_it(tails: int, ell: int) -> None:
    assert tail_code(F, WITNESS, tails) == Code(F, ell, WITNESS.n, WITNESS.blinding)


def test_tails_are_two_a_round_and_one_for_each_commitment() -> None:
    layouts = [CommitmentLayout.pack([("a", (n,))], WITNESS) for n in (64, 1024, 100)]
    assert [x.variables for x in layouts] == [6, 10, 7] and tail_count(layouts) == 2 * 10 + 3 and tail_count(layouts[:1]) == 13


def test_checks_pass_equal_values_and_name_the_first_query() -> None:
    good = F.array([[1, 2, 3], [4, 5, 6]])
    bad = good.copy()
    bad[1, 1] += np.uint64(1)
    bad[0, 2] += np.uint64(1)
    check_equal("reason", "here", F.one, F.ext(1))
    check_columns("reason", "here", good, good.copy())
    with pytest.raises(VerificationError, match="reason at here"):
        check_equal("reason", "here", F.one, F.zero)
    with pytest.raises(VerificationError, match="query 1") as caught:
        check_columns("reason", "here", good, bad)
    assert (caught.value.reason, caught.value.where) == ("reason", "here")


def test_vectors_of_many_trees_meet_a_long_axis_in_little_memory() -> None:
    """W_c at a point, term by term; all vectors in one product would take five times their memory (a head of 85 trees: 1 GB)."""
    rng, count, n = np.random.default_rng(8), 24, 1 << 14

    def drawn(size: int) -> U64:
        return rng.integers(0, F.p, (2, size), dtype=np.uint64)

    layout = CommitmentLayout.pack([("x", (2, n)), ("y", (3,))], WITNESS)
    point, once = drawn(layout.variables), drawn(n)
    vectors = [once, *(drawn(n) for _ in range(count)), once]
    terms = [CellTerm(F.ext(k + 1, 5), ("base", "x"), (drawn(2), w), whole((2, n))) for k, w in enumerate(vectors)]
    terms.append(CellTerm(F.one, ("base", "y"), (drawn(3),), whole((3,))))
    tracemalloc.start()
    found = CombinedWeights(F, tuple(terms), F.zero).at(Committed("base", layout, b""), point, Vectors(F))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    expected = F.zero
    for term in terms:
        lead, eqs = layout.slot_eq(layout.by_name[term.place[1]], Corners(F, point), Vectors(F))
        for weight, eq in zip(term.weights, eqs, strict=True):
            lead = lead * Ext.from_array(F, F.kdot(weight, eq))
        expected = expected + term.coef * lead
    assert found == expected
    assert peak < count * once.nbytes


def test_pads_and_products_are_weighed_on_all_their_cells() -> None:
    """Boxes of claims stay what they are; those of the two pools are as long as what is committed, in both planes of K."""
    system, place = ConstraintSystem(), ("base", "x")
    system.require(Form(F.one, {("pad", 1): F.ext(3)}), "here", (CellTerm(F.one, place, (F.zeros(2, 5),), ((1, 4),)),))
    found = combine(F, system, F.ext(2), {"pad": 4, "product": 3})
    assert {term.place: term.box for term in found.terms} == {
        place: ((1, 4),), ("witness", "pad"): ((0, 4), (0, 2)), ("witness", "product"): ((0, 3), (0, 2)),
    }
    assert all(len(term.box) == len(term.weights) for term in found.terms) and found.target == F.ext(-1)
