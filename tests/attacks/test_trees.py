"""Tasks with several lookup trees: honest proofs are accepted, a lie in any tree is rejected, trees cannot lend each other rows."""

from contextlib import suppress

import numpy as np
import pytest

from protocol.channel import CountingChannel, Transcript, VerifyingChannel
from protocol.errors import VerificationError
from protocol.field import GOLDILOCKS, Ext
from protocol.relation.graph import Graph, IntArray
from protocol.schedule.constraints import whole
from protocol.schedule.task import TaskShape, run_task
from prover.cost.claims import record_claims
from tests.attacks.test_lies import one
from tests.support.evil import Lie, prove_with, violated_constraints
from tests.support.stage import PARAMS, verify
from tests.support.tiny import Tiny, tiny_graph

BITS = 7


def graph() -> Graph:
    """x in 4 bits with y = 3x in 6 bits (virtual), cut along both axes."""
    g = Graph()
    x = g.commit("x", "ab", (6, 12), 0, 15)
    g.lookup("range:4", x)
    g.lookup("range:6", g.linear("y", "ab", (3, x)))
    return g


def values(x: IntArray) -> list[IntArray]:
    return [x, 3 * x]


def honest() -> IntArray:
    return np.random.default_rng(4).integers(0, 16, (6, 12))


def judge(x: IntArray, lie: Lie | None = None) -> tuple[str, frozenset[str]]:
    """Reason of the verdict, and the constraints that the committed cells break."""
    shape, seen = TaskShape(graph(), GOLDILOCKS, BITS), dict[str, np.ndarray]()
    proof = bytes(prove_with(shape, b"trees", [], values(x), {}, lie or Lie(), seen).proof)
    violated = violated_constraints(shape, b"trees", {}, proof, {("witness", name): tensor for name, tensor in seen.items()})
    try:
        verify(TaskShape(graph(), GOLDILOCKS, BITS), b"trees", [], {}, proof)
    except VerificationError as error:
        return error.reason, violated
    return "accepted", violated


def trees() -> int:
    return len(TaskShape(graph(), GOLDILOCKS, BITS).plans)


def test_honest_values_are_accepted() -> None:
    assert trees() == 3
    assert judge(honest()) == ("accepted", frozenset())


def test_every_cell_is_looked_up_in_its_own_tree() -> None:
    """One cell of each box just outside its table: the fractions of its tree do not cancel."""
    cells = {(plan.number, block.box) for plan in TaskShape(graph(), GOLDILOCKS, BITS).plans for block in plan.blocks if block.lookup}
    for k, (number, ((row, _), (_, column))) in enumerate(sorted(cells)):
        x = honest()
        x[row, column - 1] = (-1, 16)[k % 2]
        assert judge(x) == ("opening-relation", frozenset({"tree level"})), (number, row, column)


def test_rows_cannot_be_taken_from_another_tree() -> None:
    """Multiplicities whose sum over the trees is right."""
    _, first, second = TaskShape(graph(), GOLDILOCKS, BITS).plans
    table = (set(first.tables) & set(second.tables)).pop()
    lie = Lie(multiplicities={f"{table}@1": one(1), f"{table}@2": one(-1)})
    assert judge(honest(), lie) == ("opening-relation", frozenset({"tree level"}))


@pytest.mark.parametrize("number", range(trees()))
def test_multiplicities_of_each_tree_are_the_committed_ones(number: int) -> None:
    plan = TaskShape(graph(), GOLDILOCKS, BITS).plans[number]

    def more(tensors: dict[str, np.ndarray]) -> None:
        name = plan.multiplicity(plan.tables[-1])
        tensors[name] = tensors[name] + 1

    assert judge(honest(), Lie(witness=more)) == ("opening-relation", frozenset({"lookup numerators"}))


def test_another_size_of_trees_is_another_statement() -> None:
    """A verifier cuts as it does, whatever the prover did."""
    shape = TaskShape(graph(), GOLDILOCKS, BITS)
    proof = bytes(prove_with(shape, b"trees", [], values(honest()), {}, Lie(), {}).proof)
    for bits in (BITS + 1, 26):
        with pytest.raises(VerificationError):
            verify(TaskShape(graph(), GOLDILOCKS, bits), b"trees", [], {}, proof)


def test_each_tree_has_challenges_of_its_own() -> None:
    """All that is sent for one tree is absorbed before the next one's α."""
    drawn: list[str] = []

    class Listing(Transcript):
        def draw(self, tag: str, words: int, below: int) -> list[int]:
            drawn.append(tag)
            return super().draw(tag, words, below)

    shape = TaskShape(graph(), GOLDILOCKS, BITS)
    run_task(CountingChannel(GOLDILOCKS, Listing()), shape, b"", [], PARAMS, {}, None)
    starts = [k for k, tag in enumerate(drawn) if tag == "lookups/alpha-beta"]
    assert len(starts) == trees() and starts[0] == 0
    assert [drawn[k - 1] for k in starts[1:]] == ["tree/rho"] * (trees() - 1)


def test_every_message_of_a_tree_is_in_the_next_one_s_challenges() -> None:
    """A bit changed anywhere before a tree's α, the last byte included: its α and β are others, and those of the trees after it."""
    shape = TaskShape(graph(), GOLDILOCKS, BITS)
    proof = bytes(prove_with(shape, b"trees", [], values(honest()), {}, Lie(), {}).proof)

    class Noting(VerifyingChannel):
        """Where each tree's challenges are drawn, and what they are."""

        def challenges(self, tag: str, count: int) -> list[Ext]:
            found = super().challenges(tag, count)
            if tag == "lookups/alpha-beta":
                drawn.append((self.at, found))
            return found

    def starts(data: bytes) -> list[tuple[int, list[Ext]]]:
        drawn.clear()
        with suppress(VerificationError):
            run_task(Noting(GOLDILOCKS, data), TaskShape(graph(), GOLDILOCKS, BITS), b"trees", [], PARAMS, {}, None)
        return list(drawn)

    drawn: list[tuple[int, list[Ext]]] = []
    own = starts(proof)
    assert len(own) == trees() and own[0][0] == 32
    for number, (at, _) in enumerate(own):
        begin = own[number - 1][0] if number else 0
        for place in sorted({begin, at - 1, *np.random.default_rng(number).integers(begin, at, 12).tolist()}):
            changed = bytearray(proof[: own[-1][0]])  # the rest of the proof draws no α
            changed[place] ^= 1
            found = starts(bytes(changed))
            assert found[:number] == own[:number]
            assert not {repr(x) for _, xs in found[number:] for x in xs} & {repr(x) for _, xs in own for x in xs}


def test_a_graph_with_every_operation_in_several_trees() -> None:
    tiny = Tiny(tiny_graph(6, 24, 5))
    tiny.shape = TaskShape(tiny.graph, GOLDILOCKS, 9)
    assert len(tiny.shape.plans) > 2
    proof = bytes(tiny.prove().proof)
    assert tiny.reason(proof) == "accepted"
    for plan in tiny.shape.plans[1:]:
        lie = Lie(multiplicities={f"{plan.tables[-1]}@{plan.number}": one(1)})
        assert tiny.reason(bytes(tiny.prove(lie).proof)) == "opening-relation"


# products in boxes -----------------------------------------------------------------------------------------------------


def attention_like() -> Graph:
    """z = a∘(b·c − row) in 10 bits by limbs, axes transposed and turned on the way: atoms in boxes on shared and on own axes."""
    g = Graph()
    a = g.input("in", "a", "gtu", (5, 4, 6), 0, 7)
    b, c = g.input("in", "b", "tgj", (4, 5, 3), 0, 3), g.input("in", "c", "guj", (5, 6, 3), 0, 3)
    inner = g.product("inner", "tgj,guj->gtu", b, c)
    row = g.product("row", "tgj,tgj->gt", b, b)
    turned = g.axis_map("turned", inner, "u", 6, np.arange(6), np.roll(np.arange(6), 2), np.ones(6, dtype=np.int64))
    z = g.product("z", "gtu,gtu->gtu", a, g.linear("centred", "gtu", (1, turned), (1, row), (1, g.public("p", "tu", np.tri(4, 6)))))
    high = g.commit("high", "gtu", (5, 4, 6), 0, 63)
    g.hint("round_shift", [z], [high], shift=4)
    g.lookup("range:4", g.linear("rest", "ugt", (1, z), (-16, high), const=8))
    g.lookup("range:6", high)
    return g


def test_products_are_proved_in_boxes() -> None:
    """Claims of a lookup that is cut are sums over its boxes: honest values are accepted, a remainder out of range in any box is not."""
    tiny = Tiny(attention_like(), 3)
    tiny.shape = TaskShape(tiny.graph, GOLDILOCKS, BITS)
    claims = record_claims(TaskShape(tiny.graph, GOLDILOCKS, BITS))
    boxes = [b for plan in tiny.shape.plans for b in plan.blocks if b.lookup is not None and b.table == "range:4"]
    cut = [i for i in claims.instances if i.tensor.name == "z"]
    assert len(cut) == len(boxes) > 3 and max(i.variables for i in cut) <= BITS - 3
    assert {"inner", "row"} <= {i.tensor.name for i in claims.instances if i.box != whole(i.tensor.shape)}
    assert tiny.reason(bytes(tiny.prove().proof)) == "accepted"
    at, honest = {t.name: t.index for t in tiny.graph.tensors}, tiny.values
    for block in boxes:
        (u, _), (_, g), (_, t) = block.box
        tiny.values = [a.copy() for a in honest]
        tiny.values[at["high"]][g - 1, t - 1, u] += 1
        tiny.values[at["rest"]][u, g - 1, t - 1] -= 16
        assert tiny.reason(bytes(tiny.prove().proof)) == "opening-relation", block.box
