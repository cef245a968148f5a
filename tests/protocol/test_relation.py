"""What the builder of graphs refuses, at the edges: shapes and names that disagree, indices out of range, bounds of 2^62."""

from collections.abc import Callable

import numpy as np
import pytest

from protocol.relation.graph import BOUND, Graph, RelationError, Tensor, Term

ONES = np.ones(3, dtype=np.int64)


def world() -> tuple[Graph, Tensor, Tensor]:
    """x [a=3, b=2] in −5 … 7 and y [b=2, c=4] in 0 … 3."""
    g = Graph()
    return g, g.input("in", "x", "ab", (3, 2), -5, 7), g.input("in", "y", "bc", (2, 4), 0, 3)


REFUSED: dict[str, tuple[str, Callable[[Graph, Tensor, Tensor], object]]] = {
    "fewer axes than lengths": ("do not name", lambda g, x, y: g.input("in", "z", "a", (3, 2), 0, 1)),
    "more axes than lengths": ("do not name", lambda g, x, y: g.commit("z", "abc", (3, 2), 0, 1)),
    "one axis twice": ("do not name", lambda g, x, y: g.commit("z", "aa", (3, 3), 0, 1)),
    "a diagonal": ("do not name", lambda g, x, y: g.product("z", "ab,ab->aa", x, x)),
    "values of 2^62": ("the limit is 2\\^62", lambda g, x, y: g.commit("z", "", (), 0, BOUND)),
    "values of −2^62": ("the limit is 2\\^62", lambda g, x, y: g.commit("z", "", (), -BOUND, 0)),
    "a sum of different shapes": ("axis b has lengths 2 and 3", lambda g, x, y: g.linear("z", "ab", (1, x), (1, x, "ba"))),
    "a sum longer than its sizes": ("axis a has lengths 4 and 3", lambda g, x, y: g.linear("z", "ab", (1, x), sizes={"a": 4})),
    "a vector of another length": ("axis a has lengths 3 and 2", lambda g, x, y: g.linear("z", "ab", Term(1, x, "ab", (("a", ONES[:2]),)))),
    "a vector on a summed axis": ("summed axis a", lambda g, x, y: g.linear("z", "b", Term(1, x, "ab", (("a", ONES),)))),
    "a map to a row too many": ("axis map", lambda g, x, y: g.axis_map("z", x, "a", 2, [0, 2], [0, 1])),
    "a map from a row too many": ("axis map", lambda g, x, y: g.axis_map("z", x, "b", 5, [0, 1], [0, 2])),
    "a map with more rows than columns": ("axis map", lambda g, x, y: g.axis_map("z", x, "a", 2, [0, 1], [0], [1, 1])),
    "a map with more columns than values": ("axis map", lambda g, x, y: g.axis_map("z", x, "a", 2, [0, 1], [0, 1], [1])),
    "a row below 0": ("index", lambda g, x, y: g.gather("z", x, "st", [[0, -1]])),
    "a row above the last": ("index", lambda g, x, y: g.gather("z", x, "st", [[0, 3]])),
    "rows in one dimension": ("index", lambda g, x, y: g.gather("z", x, "st", [0, 1])),
    "a factor with fewer axes": ("'a' does not name", lambda g, x, y: g.product("z", "a,bc->ac", x, y)),
    "a factor with more axes": ("'bcd' does not name", lambda g, x, y: g.product("z", "ab,bcd->acd", x, y)),
    "factors of different shapes": ("axis b has lengths 2 and 4", lambda g, x, y: g.product("z", "ab,cb->ac", x, y)),
    "a sum over the first factor alone": ("unsupported einsum", lambda g, x, y: g.product("z", "ab,bc->bc", x, y)),
    "a sum over the second factor alone": ("unsupported einsum", lambda g, x, y: g.product("z", "ab,bc->ab", x, y)),
    "an axis from nowhere": ("unsupported einsum", lambda g, x, y: g.product("z", "ab,bc->acd", x, y)),
    "digits of different rows": ("do not make 6", lambda g, x, y: g.one_hot("z", x, y, "v", 6)),
    "too few digits": ("do not make 5", lambda g, x, y: g.one_hot("z", x, x, "v", 5)),
    "columns of different shapes": ("different shapes", lambda g, x, y: g.lookup("exp:3:16", x, x, y)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    reason, make = REFUSED[case]
    g, x, y = world()
    with pytest.raises(RelationError, match=reason):
        make(g, x, y)
    assert len(g.tensors) == 2 and not g.lookups


def test_axes_are_named_once_and_digits_alike() -> None:
    """A claim has one weight vector for each axis and one box for both digits, so shapes that agree are not enough."""
    g = Graph()
    square, high = g.input("in", "x", "ab", (3, 3), 0, 1), g.input("in", "h", "abi", (3, 3, 2), 0, 1)
    for make in (
        lambda: g.linear("z", "a", (1, square, "aa")), lambda: g.product("z", "aa,ab->ab", square, square),
        lambda: g.product("z", "ab,bb->ab", square, square),
    ):
        with pytest.raises(RelationError, match="names an axis twice"):
            make()
    for axes in ("bak", "ack"):
        with pytest.raises(RelationError, match="do not make 4"):
            g.one_hot("z", high, g.input("in", axes, axes, (3, 3, 2), 0, 1), "v", 4)
    assert g.one_hot("z", high, g.input("in", "l", "abk", (3, 3, 2), 0, 1), "v", 4).shape == (3, 3, 4)


def test_what_just_fits() -> None:
    g, x, y = world()
    assert g.commit("z", "", (), 1 - BOUND, BOUND - 1).magnitude == (1 << 62) - 1
    assert g.axis_map("last", x, "a", 3, [0, 2], [2, 0], [1, -1]).shape == (3, 2)
    assert g.axis_map("nothing", x, "a", 4, [], []).shape == (4, 2)
    assert g.gather("rows", x, "st", [[0, 2, 1]]).shape == (1, 3, 2)
    assert g.one_hot("hot", x, x, "v", 4).shape == (3, 4)
    g.lookup("exp:3:16", x, x, x)


def test_a_term_may_name_its_axes_anew() -> None:
    """x [a, b] taken as [c, d], transposed; bounds are those of the sum."""
    g, x, _ = world()
    z = g.linear("z", "dc", (2, x, "cd"), (-1, x, "cd"), const=1)
    assert (z.axes, z.shape, z.lo, z.hi) == ("dc", (2, 3), 1 - 10 - 7, 1 + 14 + 5)
