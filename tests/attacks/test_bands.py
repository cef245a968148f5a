"""Attention in bands of queries: the training of the full square, honest proofs accepted, a lie in any band rejected, nothing free."""

from collections.abc import Iterator

import numpy as np
import pytest

from protocol.relation import attention
from protocol.relation.graph import Committed
from protocol.relation.model import build
from prover.executor.evaluate import evaluate
from prover.executor.reference import ReferenceOps
from prover.executor.trainer import Trainer
from tests.attacks.test_constrained import free
from tests.attacks.test_lies import TREE, one, rejected
from tests.support.evil import Lie, attack
from tests.support.stage import Case, Stage
from tests.toy import EVEN, Toy, toy

LENGTH, SHORT = 10, 4  # bands of 4, 4 and 2 queries


def made() -> Toy:
    return toy(layers=1, steps=1, window_steps=1, batch_size=2, sequence_length=LENGTH, sizes=EVEN)


@pytest.fixture(autouse=True)
def short_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "BAND", SHORT)


@pytest.fixture(scope="module")
def layer() -> Iterator[Case]:
    """Built once, while bands are short."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "BAND", SHORT)
        yield Stage(made()).case("layer", 0, 0)


def test_cells_of_the_bands(layer: Case) -> None:
    """4·4 + 4·8 + 2·10 of 100 cells for each head; no tensor of the graph has more keys and queries than a band."""
    shapes = {t.name: t.shape[-2:] for t in layer.graph.tensors if t.axes.endswith("tu") and t.name.startswith("attn")}
    assert {shape for name, shape in shapes.items() if name.endswith(".P")} == {(4, 4), (4, 8), (2, 10)}
    assert {"attn@0.P", "attn@4.P", "attn@8.P"} <= set(shapes)
    assert all(t.shape[-2] <= SHORT for t in layer.graph.tensors if t.axes.endswith("tu"))


def test_training_is_that_of_the_square(monkeypatch: pytest.MonkeyPatch) -> None:
    toy_run, found = made(), []
    for width in (SHORT, 3, LENGTH):
        monkeypatch.setattr(attention, "BAND", width)
        trainer = Trainer(toy_run.manifest, toy_run.base, toy_run.tokens, toy_run.mask)
        found.append(trainer.run_window(toy_run.manifest.windows()[0], None))
    square = found.pop()
    for trace in found:
        for name in ("x", "dx"):
            ours, theirs = getattr(trace, name), getattr(square, name)
            assert ours.keys() == theirs.keys() and all(np.array_equal(ours[k], theirs[k]) for k in theirs)
        assert all(np.array_equal(trace.state_out[n][k], a) for n, state in square.state_out.items() for k, a in state.items())
    assert any(a.any() for a in square.state_out[0].values())


def test_a_layer_in_bands_computes_what_the_square_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three tokens, bands of two: everything that other tasks read, from the same inputs."""
    small, found = toy(layers=1, steps=1, window_steps=1, batch_size=1, sequence_length=3, sizes=EVEN), []
    trace = Trainer(small.manifest, small.base, small.tokens, small.mask).run_window(small.manifest.windows()[0], None)
    inputs = {("base", name): array for name, array in small.base["base/0"].items()}
    inputs |= {("x_in", "x"): trace.x[0], ("dx_in", "dx"): trace.dx[1]}
    for width in (2, 3):
        monkeypatch.setattr(attention, "BAND", width)
        graph = build(small.manifest, "layer", small.manifest.windows()[0], 0)
        made = {t: op for t, op in zip(graph.tensors, graph.ops) if isinstance(op, Committed) and op.commitment != "witness"}
        shared = {t.index: op.tensor_name for t, op in made.items()}
        shared |= {t.index: t.name for t in graph.tensors if t.name in ("O", "dq", "dk", "dv")}
        values = evaluate(graph, inputs, [graph.tensors[i] for i in shared], ReferenceOps())
        found.append({name: values[i].tolist() for i, name in shared.items()})
    assert found[0] == found[1] and len(found[0]) > 20


def test_a_sequence_no_longer_than_a_band_is_one_square(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "BAND", LENGTH)
    graph = Stage(made()).case("layer", 0, 0).graph
    assert not any("@" in t.name or ".placed" in t.name for t in graph.tensors)
    assert next(t for t in graph.tensors if t.name == "attn.P").shape[-2:] == (LENGTH, LENGTH)


def test_an_honest_layer_is_accepted(layer: Case) -> None:
    outcome = attack(layer, Lie())
    assert (outcome.reason, outcome.broken, outcome.violated) == ("accepted", "", frozenset())


@pytest.mark.parametrize("start", [0, 4, 8])
@pytest.mark.parametrize(("name", "delta", "broken"), [
    ("attn@{}.P", 1, "lookup in exp"), ("attn@{}.P_before", 1, "lookup in exp"), ("attn@{}.S", 1, "attn@{}.S.rest"),
    ("attn@{}.z", 1, "attn@{}.above"), ("dS@{}", 1, "dS@{}.rest"),
])
def test_a_wrong_cell_of_a_band_is_rejected(layer: Case, start: int, name: str, delta: int, broken: str) -> None:
    rejected(layer, Lie(cells={name.format(start): one(delta)}), broken.format(start), TREE)


@pytest.mark.parametrize("name", ["O", "dq", "dk", "dv"])
def test_what_the_bands_add_up_to_is_fixed(layer: Case, name: str) -> None:
    """In the first position, which the first band alone reaches as a query and all bands as a key, and in the last."""
    for cell in (0, -1):
        def change(a: np.ndarray, cell: int = cell) -> np.ndarray:
            a.reshape(-1)[cell] += 2
            return a

        rejected(layer, Lie(cells={name: change}), f"{name}.rest", TREE)


def test_every_cell_of_a_layer_in_bands_is_determined() -> None:
    """One sequence of six tokens, heads and widths as small as they can be: no committed cell can move."""
    small = toy(layers=1, steps=1, window_steps=1, batch_size=1, sequence_length=6, sizes=EVEN)
    case = Stage(small).case("layer", 0, 0)
    assert any(t.name == "attn@4.P" for t in case.graph.tensors)
    found, tried = free(case, 1)
    assert found == {} and tried > 5000
