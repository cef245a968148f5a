"""The parts of the relation at the edges of what they allow: clipping, norms, softmax, token ids, missing exponents.

What they are elsewhere is pinned by test_graphs.py; that they compute what they say, by tests/prover.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from math import isqrt

import numpy as np
import pytest

from protocol.manifest import Lora, RunManifest, StepRange
from protocol.model_config import PROJECTIONS
from protocol.relation import attention
from protocol.relation.clip import squared_rows
from protocol.relation.context import Context, Fixed
from protocol.relation.graph import Committed, Graph, Public, RelationError, Tensor
from protocol.relation.lora import DY_EXPONENT, X_EXPONENT
from protocol.relation.model import build
from protocol.relation.norm import INVERSE_BITS, _inverse, norm_forward
from protocol.relation.parts import hand_on
from protocol.relation.softmax import softmax
from protocol.relation.tokens import digit_sizes
from prover.executor.evaluate import RelationBroken, check, evaluate
from prover.executor.reference import ReferenceOps
from tests.protocol.test_build import manifest

WINDOW = StepRange(0, 2)


def clipping(norm: int, max_grad_norm: str = "1", modules: tuple[str, ...] = ("q_proj",)) -> RunManifest:
    """Two layers of hidden size 8 with 2 heads of 4; with q_proj alone 32 squares are rounded for one norm."""
    m = manifest("clipped sgd")
    optimizer = replace(m.optimizer, max_grad_norm=max_grad_norm)
    lora = Lora(m.lora.r, m.lora.lora_alpha, modules)
    return replace(m, optimizer=optimizer, lora=lora, exponents=m.exponents | {"norm": norm})


@pytest.mark.parametrize(("norm", "just", "less"), [(-2, "1", "0.999999"), (0, "0.5", "0.499999"), (2, "0.25", "0.249999")])
def test_rounding_hides_eight_times_max_grad_norm_at_most(norm: int, just: str, less: str) -> None:
    """32 rows below half a unit of 2^−f have a norm of √(32·2^−(f+1)): 8, 4, 2."""
    build(clipping(norm, just), "clip", WINDOW)
    with pytest.raises(RelationError, match=f"exponent norm is {norm}: rounding could hide gradients of norm {8 >> norm // 2 + 1}, "):
        build(clipping(norm, less), "clip", WINDOW)


@pytest.mark.parametrize("modules", [("q_proj",), ("k_proj", "down_proj"), ("v_proj", "o_proj", "up_proj")])
def test_rows_that_are_rounded_for_one_norm(modules: tuple[str, ...]) -> None:
    m = clipping(18, modules=modules)
    graphs = [build(m, "layer", StepRange(0, 1), layer) for layer in range(m.model.layers)]
    assert squared_rows(m) == sum(t.cells for g in graphs for t in g.tensors if t.name.endswith(".row_norm"))


@pytest.mark.parametrize("norm", [0, 40, 44])
def test_a_millionth_is_added_to_the_norm(norm: int) -> None:
    """clip_grad_norm_ divides by the norm plus 10^−6."""
    distance = next(t for t in build(clipping(norm), "clip", WINDOW).tensors if t.name == "distance")
    assert distance.lo == round(2 ** (norm // 2 + 6) / 10**6)


@pytest.mark.parametrize(("kind", "norm"), [("clip", -1), ("clip", 3), ("layer", 3)])
def test_a_norm_has_an_even_exponent(kind: str, norm: int) -> None:
    with pytest.raises(RelationError, match=f"exponent norm is {norm}: it has to be even"):
        build(clipping(norm), kind, WINDOW)


@pytest.mark.parametrize("norm", [-2, 8, 10, 30])
def test_squares_have_as_many_bits_as_they_need(norm: int) -> None:
    """One at least, 36 at most."""
    m, seen = clipping(norm), set()
    by_name = {t.name: t for t in build(m, "layer", WINDOW, 0).tensors}
    for name in ("q_proj.lora_A", "q_proj.lora_B"):
        shift = 2 * m.exponents[f"layer/0/{name}.mean"] - norm
        largest = (2 * by_name[f"{name}.squares"].hi + (1 << shift)) >> shift + 1
        bits = by_name[f"{name}.row_norm"].hi.bit_length()
        assert by_name[f"{name}.row_norm"].hi == (1 << bits) - 1 and by_name[f"{name}.row_norm"].lo == 0
        assert bits == 36 and largest >> 35 or largest >> bits == 0 and (bits == 1 or largest >> bits - 1)
        seen.add(bits)
    assert (1 in seen) == (norm <= 8) and (36 in seen) == (norm == 30)


@cache
def parted(kind: str) -> Graph:
    return build(manifest("parts"), kind, WINDOW, 1)


@pytest.mark.parametrize("module", PROJECTIONS)
@pytest.mark.parametrize(("matrix", "widths"), [("lora_A", 24 + 16), ("lora_B", 16 + 16)])
def test_a_gradient_is_handed_on_as_its_update_reads_it(module: str, matrix: str, widths: int) -> None:
    """Bounds of a sum of sequences·tokens products of two committed values, and the fractional bits of both of them together."""
    m = manifest("parts")
    layer, update = (parted(kind) for kind in ("layer", "update"))
    read = {t.name: t for t in update.tensors}
    bound = m.part_sequences * m.sequence_length << widths - 2
    written = {op.tensor_name: t for t, op in zip(layer.tensors, layer.ops)
               if isinstance(op, Committed) and op.commitment == "gradient"}
    name = f"{module}.{matrix}"
    for t in (written[name], *(read[f"gradient{part}/{name}"] for part in m.part_numbers)):
        assert (t.lo, t.hi) == (-bound, bound)
    assert read[f"{name}.gradient"].hi == 3 * bound
    e = m.exponents
    keys = {"lora_A": (f"{module}.du", X_EXPONENT[module]), "lora_B": (DY_EXPONENT.get(module, "dx/2"), f"{module}.u")}[matrix]
    f = sum(e[key] if key == "dx/2" else e[f"layer/1/{key}"] for key in keys)
    for bits in (f - 1, f, f + 1):
        c = Context(Graph(), m, WINDOW, "layer/1/")
        exact = Fixed(c.g.input("in", "g", "sa", (2, 1), -bound, bound), bits)
        if bits == f:
            hand_on(c, 1, module, matrix, exact)
            continue
        with pytest.raises(RelationError, match=f"{name}: the gradient has {bits} fractional bits, its update reads {f}"):
            hand_on(c, 1, module, matrix, exact)
    c = Context(Graph(), m, WINDOW, "layer/1/")
    with pytest.raises(RelationError, match=f"{name}: values of gradient may reach {bound + 1}, and {bound} is declared"):
        hand_on(c, 1, module, matrix, Fixed(c.g.input("in", "g", "sa", (2, 1), -bound - 1, bound), f))


@pytest.mark.parametrize(("kind", "key"), [
    ("embed", "x"), ("embed", "embedding/E"), ("layer", "layer/0/attn.g"), ("layer", "layer/0/attn_norm.V"), ("layer", "dx/1"),
    ("head", "head/vocab.g"), ("clip", "norm"),
])
def test_a_missing_exponent_is_named(kind: str, key: str) -> None:
    m = manifest()
    build(m, kind, WINDOW, 0)
    without = replace(m, exponents={k: v for k, v in m.exponents.items() if k != key})
    with pytest.raises(RelationError, match=f"the manifest has no exponent {key}$"):
        build(without, kind, WINDOW, 0)


@pytest.mark.parametrize("vocab", [1, 2, 3, 15, 16, 17, 1 << 16, (1 << 16) + 1, 70000])
def test_token_ids_below_the_vocabulary_pass_and_no_others(vocab: int) -> None:
    m = manifest()
    m = replace(m, model=replace(m.model, vocab=vocab))

    def passes(token: int) -> bool:
        return holds(build(m, "range", None, "dataset"), lambda t: np.full(t.shape, token if t.name == "dataset/tokens" else 1))

    assert [passes(t) for t in (-vocab, -2, -1, 0, vocab - 1, vocab, vocab + 1, 2 * vocab)] == [False] * 3 + [True] * 2 + [False] * 3


def holds(g: Graph, inputs: Callable[[Tensor], np.ndarray]) -> bool:
    """Whether every lookup and zero holds, whatever bounds the inputs are declared with; what is committed is the honest prover's."""
    free = 1 << 40
    g.tensors = [replace(t, lo=min(t.lo, -free), hi=max(t.hi, free)) for t in g.tensors]
    values = evaluate(g, {tuple(t.name.split("/")): inputs(t) for t in g.tensors if "/" in t.name}, g.tensors, ReferenceOps())  # type: ignore[misc]
    try:
        check(g, values)
    except RelationBroken:
        return False
    return True


def test_ids_have_two_digits_of_nearly_one_size() -> None:
    """base = ⌈√V⌉, and as many high digits as ids need."""
    for vocab in (*range(1, 300), 1023, 1024, 1025, 32000, 128256, 1 << 20):
        high, base = digit_sizes(vocab)
        assert base**2 >= vocab > (base - 1) ** 2 and high * base >= vocab > (high - 1) * base
        assert base == isqrt(vocab - 1) + 1 or vocab == 1


def normed(d: int, s_v: int, f_r: int) -> None:
    m = manifest()
    c = Context(Graph(), replace(m, exponents={"n.V": s_v, "n.r": f_r, "n.out": f_r}), WINDOW, "")
    norm_forward(c, "n", Fixed(c.g.input("in", "h", "td", (3, d), -8, 7), 0))


@pytest.mark.parametrize("d", [8, 12, 1])
def test_the_target_of_a_norm_stays_below_2_61(d: int) -> None:
    """(2r−1)²·V ≤ C < (2r+1)²·V with C = d·2^(2(f_r+1) − s_V): a whole number, and room for it."""
    power = 61 - d.bit_length()
    odd = power % 2
    normed(d, odd, (power + odd) // 2 - 1)
    normed(d, 0, -1)  # C = d
    for s_v, f_r in ((1 - odd, (power + 2 - odd) // 2 - 1), (1, -1), (2, -1), (0, -2)):
        with pytest.raises(RelationError, match="out of"):
            normed(d, s_v, f_r)


def test_a_mean_is_exact_over_powers_of_two_and_fine_over_the_others() -> None:
    for d in (*range(1, 200), 1 << 18, (1 << 18) - 1):
        n, k = _inverse(d)
        assert n * d == 1 << k if d.bit_count() == 1 else abs(n * d - (1 << k)) * 2 <= d and n >> INVERSE_BITS == 1, d
        assert n == 1 or d.bit_count() > 1


@pytest.mark.parametrize("top", [1, 1 << 22, 1 << 23, (1 << 23) + (1 << 16) - 2, 1 << 24])
def test_scores_may_be_whatever_honest_ones_and_masked_ones_are(top: int) -> None:
    """S has the bounds of z − x, z of 24 bits and x of 16, or those of the rounded scores if they are wider."""
    m = manifest()
    c = Context(Graph(), m, WINDOW, "")
    scores = c.g.input("in", "scores", "tu", (3, 3), -16 * top, 16 * top)
    softmax(c, "a", Fixed(scores, 9), 16, 5)
    s = next(t for t in c.g.tensors if t.name == "a.S")
    assert (s.lo, s.hi) == (min(-top, -(1 << 23) - 65535), max(top, 1 << 23))


# bands of queries ------------------------------------------------------------------------------------------------------


def test_positions_are_cut_and_placed() -> None:
    """[1, 4) of five, and three cells from position 2 on; what is whole already is left alone."""
    c = Context(Graph(), replace(manifest(), sequence_length=5), WINDOW, "")
    x = Fixed(c.g.input("in", "x", "at", (2, 5), -9, 9), 7)
    cut, part = attention._cut(c, "cut", x, 1, 4), Fixed(c.g.input("in", "y", "ta", (3, 2), -9, 9), 6)
    placed = attention._place(c, "placed", part, 2)
    inputs = {("in", "x"): np.arange(10).reshape(2, 5) - 5, ("in", "y"): np.arange(6).reshape(3, 2) + 1}
    found = evaluate(c.g, inputs, [cut.t, placed.t], ReferenceOps())
    assert found[cut.t.index].tolist() == inputs["in", "x"][:, 1:4].tolist()
    assert found[placed.t.index].tolist() == [[0, 0], [0, 0], [1, 2], [3, 4], [5, 6]]
    assert [(y.t.name, y.t.axes, y.f) for y in (cut, placed)] == [("cut", "at", 7), ("placed", "ta", 6)]
    assert attention._cut(c, "all", x, 0, 5) is x and attention._place(c, "all", x, 0) is x
    assert attention._cut(c, "first", x, 0, 4) is not x and attention._cut(c, "last", x, 1, 5) is not x


@pytest.mark.parametrize(("length", "bands"), [(255, 1), (256, 1), (257, 2), (512, 2), (513, 3)])
def test_a_sequence_has_a_band_for_each_256_queries(length: int, bands: int) -> None:
    """The square of scores as it is up to 256; then queries [256·k, …) with all keys up to the band's last query, masked where u > t."""
    m = manifest()
    graph = build(replace(m, sequence_length=length, loss_tokens=(1,) * m.steps), "layer", WINDOW, 0)
    shapes = [t.shape[-2:] for t in graph.tensors if t.name.startswith("attn") and t.name.endswith(".P")]
    assert shapes == [(min(length, 256 * (k + 1)) - 256 * k, min(length, 256 * (k + 1))) for k in range(bands)]
    masks = [op.values for t, op in zip(graph.tensors, graph.ops) if t.name.startswith("causal") and isinstance(op, Public)]
    square = np.tri(length, dtype=np.int64)
    assert [mask.tolist() for mask in masks] == [square[256 * k : 256 * k + n, :u].tolist() for k, (n, u) in enumerate(shapes)]
    assert any("@" in t.name for t in graph.tensors) is (bands > 1)
