"""Every choice of randomness, counted: over a tiny field the views of two secrets are the same multiset.

A proof of a minimal statement falls into three parts with disjoint randomness, each small enough to enumerate with the real
code; σ and the Merkle trees are functions of them, so their joint distribution is the product of the three.

    one product     x̂, ŷ under pads, A(τ), B(τ) under the masking pair; F of 3, K of 9 elements: 9^4 choices
    one row         a row of one cell, B = t = 1, its opened column, v1 = R1 + ρ·u and the opened cells of R1: 5^5
    one tail        ŷ under a tail pad, the opened cells of P', v2 = R2 + ρ·P' and the opened cells of R2: 5^8

Rows hold pads among other things: the second part is counted for every content of the row, so it says nothing of
the first. Without any one ingredient the multisets differ.
"""

from collections import Counter
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from protocol.channel import Form, Transcript
from protocol.code import Code
from protocol.field import U64, Ext, small_field
from protocol.layout import CommitmentLayout
from protocol.relation.graph import WITNESS
from protocol.schedule.constraints import ConstraintSystem
from protocol.schedule.opening import CombinedWeights
from protocol.schedule.triples import check_triples
from prover.argument.opening import Masks, OpeningProverImpl
from prover.backend.reference import ReferenceBackend
from prover.commitment.commit import CommitmentData
from tests.zk.harness import RecordingChannel

F3, F5, F17 = small_field(3), small_field(5), small_field(17)


class FixedTranscript(Transcript):
    """Every challenge is 1 + X: over the field of three elements a τ beside all nodes of the triples."""

    def draw(self, tag: str, words: int, below: int) -> list[int]:
        return [1] * words


# one product ---------------------------------------------------------------------------------------------------------------


def product_view(x: Ext, y: Ext, pads: tuple[Ext, ...]) -> bytes:
    """What the verifier sees when x, y are sent and multiplied, for pads (a, b, masking a, masking b)."""
    planes = np.array([[p.c0 for p in pads], [p.c1 for p in pads]], dtype=np.uint64)
    channel = RecordingChannel(F3, planes, F3.zeros(2, 0), FixedTranscript())
    channel.multiply(*channel.secrets("ends", 2, lambda: [x, y]))

    def sums(small: list[Ext]) -> U64:
        sides = [small[0] * pads[side] + small[1] * pads[2 + side] for side in range(2)]
        return np.array([[s.c0 for s in sides], [s.c1 for s in sides]], dtype=np.uint64)

    check_triples(channel, ConstraintSystem(), sums)
    return bytes(channel.proof)


K9 = [F3.ext(c0, c1) for c0 in range(3) for c1 in range(3)]
SECRET_PRODUCTS = ((F3.ext(2, 1), F3.ext(0, 1)), (F3.ext(1, 0), F3.ext(0, 0)))


def test_one_product_every_pad() -> None:
    views = [Counter(product_view(x, y, pads) for pads in product(K9, repeat=4)) for x, y in SECRET_PRODUCTS]
    assert views[0] == views[1]
    assert set(views[0].values()) == {1} and len(views[0]) == 9**4


@pytest.mark.parametrize("constant", [(0,), (1,), (2,), (3,)], ids=["pad of x", "pad of y", "mask of A", "mask of B"])
def test_one_product_with_a_constant_pad(constant: tuple[int, ...]) -> None:
    choices = [[F3.zero] if i in constant else K9 for i in range(4)]
    views = [Counter(product_view(x, y, pads) for pads in product(*choices)) for x, y in SECRET_PRODUCTS]
    assert views[0] != views[1]


# one row -------------------------------------------------------------------------------------------------------------------

ROW_CODE = Code(F5, 1, 2, 1)
ROW_LAYOUT = CommitmentLayout.pack([("cell", (1,))], ROW_CODE)
RHO = F5.ext(2, 3)
ALL = range(5)


def row_views(message: int, rhos: range, r1_choices: list[tuple[range, ...]]) -> list[Counter[bytes]]:
    """Views of one row holding `message`, for every blinding and every R1 (c0 and c1 per coefficient); by opened position."""
    backend, views = ReferenceBackend(F5), [Counter[bytes](), Counter[bytes]()]
    rows = np.array([[message]], dtype=np.uint64)
    for rho in rhos:
        blinding = np.array([[rho]], dtype=np.uint64)
        codeword = backend.encode(ROW_CODE, rows, blinding)
        committed = CommitmentData(backend, ROW_LAYOUT, rows, blinding, codeword[:0], np.zeros((2, 32), np.uint8), codeword, [])
        masks = Masks(F5.zeros(2, 2), F5.zeros(2, 1), F5.zeros(2, 1), F5.zeros(2, 2), ROW_CODE)
        prover = OpeningProverImpl(backend, [WITNESS], [committed], masks, lambda: None)
        prover.begin(CombinedWeights(F5, (), F5.zero))
        prover.sigma([F5.ext(1, 4)], Form(F5.zero))
        for words in product(*(choice for pair in r1_choices for choice in pair)):
            masks = prover.masks = replace(masks, r1=np.array(words, dtype=np.uint64).reshape(2, 2).T.copy())
            v1, _ = prover.masked_rows(RHO)
            r1_codeword = ROW_CODE.codeword(masks.r1)
            for position, counter in enumerate(views):
                seen = [v1.reshape(-1), codeword[:, position], r1_codeword[:, position]]
                counter[np.concatenate(seen).astype(np.uint8).tobytes()] += 1
    return views


def test_one_row_every_blinding_and_mask() -> None:
    views = [row_views(message, ALL, [(ALL, ALL), (ALL, ALL)]) for message in (0, 3)]
    assert views[0] == views[1]
    assert all(set(view.values()) == {1} and len(view) == 5**5 for view in views[0])


@pytest.mark.parametrize(
    ("rhos", "r1"),
    [
        (range(1), [(ALL, ALL), (ALL, ALL)]),
        (ALL, [(ALL, range(1)), (ALL, range(1))]),
        (ALL, [(ALL, ALL), (range(1), range(1))]),
        (ALL, [(range(1), range(1)), (ALL, ALL)]),
    ],
    ids=["no row blinding", "mask over F", "mask without its blinding part", "mask of the blinding part alone"],
)
def test_one_row_control(rhos: range, r1: list[tuple[range, ...]]) -> None:
    views = [row_views(message, rhos, r1) for message in (0, 3)]
    assert all(a != b for a, b in zip(*views, strict=True))


# one tail ------------------------------------------------------------------------------------------------------------------


def tail_views(secret: tuple[int, int], position: int, fixed: tuple[int, ...] = ()) -> U64:
    """Sorted views, one number each: a secret of K under P'[0], v2 and the opened cells; words in `fixed` are not random.

    Words: 0, 1 the tail pad (c0, c1); 2, 3 the blinding of P'; 4, 5 the first and 6, 7 the second coefficient of R2.
    """
    axes = [np.zeros(1, np.uint64) if i in fixed else np.arange(5, dtype=np.uint64) for i in range(8)]
    words = [w.reshape(-1) for w in np.meshgrid(*axes, indexing="ij")]
    tails, blinding = np.stack(words[0:2])[:, :, None], np.stack(words[2:4])[:, :, None]
    r2 = np.stack([np.stack([words[4], words[6]], axis=-1), np.stack([words[5], words[7]], axis=-1)])
    masks = Masks(F5.zeros(2, 2), tails, blinding, r2, ROW_CODE)
    backend = ReferenceBackend(F5)
    prover = OpeningProverImpl(backend, [], [], masks, lambda: None)
    prover.running, prover.gammas = [], []  # the tail alone: no row joins v1
    _, v2 = prover.masked_rows(RHO)
    _, tail_code, mask_code = masks.codewords(backend)
    masked = F5.sub(np.array(secret, dtype=np.uint64)[:, None], tails[:, :, 0])
    seen = [masked[0], masked[1], *v2[0].T, *v2[1].T, *tail_code[:, :, position], *mask_code[:, :, position]]
    total = np.zeros(len(words[0]), dtype=np.uint64)
    for word in seen:
        total = total * np.uint64(5) + word
    return np.sort(total)


@pytest.mark.parametrize("position", [0, 1])
def test_one_tail_every_pad_blinding_and_mask(position: int) -> None:
    views = [tail_views(secret, position) for secret in ((0, 0), (4, 2))]
    assert len(views[0]) == 5**8 and np.array_equal(views[0], views[1])


@pytest.mark.parametrize(
    "fixed", [(0, 1), (1,), (2, 3), (5, 7), (6, 7)],
    ids=["constant tail pad", "tail pad over F", "no blinding of P'", "mask over F", "mask without its blinding part"],
)
def test_one_tail_control(fixed: tuple[int, ...]) -> None:
    assert not np.array_equal(tail_views((0, 0), 1, fixed), tail_views((4, 2), 1, fixed))


# many columns --------------------------------------------------------------------------------------------------------------


def columns(code: Code, message: tuple[int, ...], positions: tuple[int, ...]) -> Counter[bytes]:
    """Opened cells of one row over all its blinding."""
    rho = np.array(list(product(range(17), repeat=code.blinding)), dtype=np.uint64)
    rows = np.broadcast_to(np.array(message, dtype=np.uint64), (len(rho), code.ell))
    return Counter(view.tobytes() for view in code.encode(rows, rho)[:, list(positions)].astype(np.uint8))


MESSAGES = ((0, 0), (1, 0), (5, 16), (16, 16))


@pytest.mark.parametrize("positions", [(0, 1), (0, 4), (1, 6), (3, 7), (2,)])
def test_columns_within_the_budget_are_uniform(positions: tuple[int, ...]) -> None:
    views = [columns(Code(F17, 2, 8, 2), message, positions) for message in MESSAGES]
    assert all(view == views[0] for view in views)
    assert len(views[0]) == 17 ** len(positions) and len(set(views[0].values())) == 1


@pytest.mark.parametrize("positions", [(0, 1, 2), (0, 2, 5)])
def test_a_column_beyond_the_budget_tells(positions: tuple[int, ...]) -> None:
    code = Code(F17, 2, 8, 2)
    assert columns(code, MESSAGES[0], positions) != columns(code, MESSAGES[2], positions)
