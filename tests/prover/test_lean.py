"""What a prover holds of a task's tensors: those that a proof reads, and none of them once all claims are made."""

import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from protocol.relation.graph import Committed, Graph, Input, Tensor
from protocol.statement import task_list
from prover.argument.prove import drained, prove_task
from prover.argument.tree import FractionTreeProver
from prover.backend import select
from prover.backend.talk import ROUNDS_AT_ONCE
from prover.commitment.commit import commit
from prover.executor.evaluate import RelationBroken, _Evaluation, check, most_alive
from prover.executor.reference import ReferenceOps
from prover.witness.task import integers_of, kept_values, read_by_proof, task_values
from tests.support.stage import PARAMS, Case, Stage, seed
from tests.toy import ODD, toy

KINDS = ("range", "rotate", "embed", "clip", "head", "layer")


@pytest.fixture(scope="module")
def every_kind() -> dict[str, Case]:
    made = Stage(toy(sizes=ODD, layers=1, steps=4, batch_size=1, sequence_length=4, target_modules=("o_proj",), rotation_windows=1,
                     kind="adamw", max_grad_norm="0.5"))
    tasks = {t.kind: t for t in task_list(made.toy.manifest)}
    assert set(tasks) == set(KINDS)
    return {kind: made.case(t.kind, t.window, t.layer, t.part) for kind, t in tasks.items()}


@pytest.mark.parametrize(("low", "high", "name"), [
    (0, 0, "uint8"), (0, 255, "uint8"), (0, 256, "uint16"), (0, 2**16 - 1, "uint16"), (0, 2**16, "uint32"), (0, 2**32 - 1, "uint32"),
    (0, 2**32, "int64"), (0, 2**62 - 1, "int64"), (-1, 127, "int8"), (-128, 128, "int16"), (-129, 0, "int16"), (-1, 2**15, "int32"),
    (-(2**31), 2**31 - 1, "int32"), (-1, 2**31, "int64"), (-(2**31) - 1, 0, "int64"), (1 - 2**62, 2**62 - 1, "int64"),
])
def test_the_smallest_integers(low: int, high: int, name: str) -> None:
    tensor = Graph().input("in", "x", "i", (3,), low, high)
    assert integers_of(tensor) == np.dtype(name) and {low, high} == {int(np.array(x).astype(name)) for x in (low, high)}


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_kept_in_the_smallest_integers(every_kind: dict[str, Case], kind: str) -> None:
    """The same values and the same proof in less memory; inputs are not copied, and what was given is freed one by one."""
    case, found = every_kind[kind], lean(every_kind[kind])
    alive = [None if x is None else weakref.ref(x) for x in found]
    wide, expected = found.copy(), prove(case, found.copy())
    narrow = kept_values(select("cpu"), case.graph, drained(found))
    assert not found
    for tensor, op, x, y in zip(case.graph.tensors, case.graph.ops, wide, narrow, strict=True):
        assert (x is None) == (y is None)
        if x is not None:
            assert np.array_equal(x, y) and (y is x if isinstance(op, Input) else y.dtype == integers_of(tensor))
    sizes = [sum(x.nbytes for x in values if x is not None) for values in (wide, narrow)]
    assert prove(case, narrow) == expected and sizes[1] < (0.75 if kind in ("layer", "head") else 1.01) * sizes[0]
    del x, y, wide
    kept = {id(x) for x in narrow}
    assert all(reference is None or reference() is None or id(reference()) in kept for reference in alive)


def lean(case: Case) -> list[Any]:
    manifest, task = case.stage.toy.manifest, case.task
    window = manifest.windows()[task.window] if task.window >= 0 else None
    return task_values(manifest, task.kind, window, task.subject, case.inputs)[1]


def prove(case: Case, values: Any, spend: Any = lambda: None) -> bytes:
    backend = select("cpu")
    inputs = [(role, commit(backend, case.stage.layout(name), case.stage.arrays[str(name)], seed(str(name))))
              for role, name in case.task.commitments]
    published = case.published()
    return prove_task(backend, case.shape, case.statement(published), inputs, values, published, PARAMS, seed("attempt"), spend)


@pytest.mark.parametrize("kind", KINDS)
def test_the_proof_reads_no_other_tensor(every_kind: dict[str, Case], kind: str) -> None:
    """Same bytes from the values that are kept; each of them is the value, and there is something to leave out wherever sums are."""
    case, found = every_kind[kind], lean(every_kind[kind])
    read = {t.index for t in read_by_proof(case.graph)}
    assert [value is not None for value in found] == [i in read for i in range(len(found))]
    assert all(np.array_equal(found[i], case.values[i]) for i in read)
    check(case.graph, dict(enumerate(found)))
    assert prove(case, found) == prove(case, case.values)
    if kind == "layer":
        assert sum(case.graph.tensors[i].cells for i in read) < 0.75 * sum(t.cells for t in case.graph.tensors)


def test_the_check_still_sees_lookups_and_zeros(every_kind: dict[str, Case]) -> None:
    graph = every_kind["layer"].graph
    for tensor in (graph.lookups[-1].columns[0], graph.zeros[-1].tensor):
        values = dict(enumerate(lean(every_kind["layer"])))
        wrong = values[tensor.index].copy()
        wrong.reshape(-1)[-1] = tensor.hi if tensor in [x.tensor for x in graph.zeros] else -1
        with pytest.raises(RelationBroken, match="lookup in|zero|bounds"):
            check(graph, values | {tensor.index: wrong})


def test_drained_values_are_gone_before_the_opening(every_kind: dict[str, Case]) -> None:
    """`spend` is called in the middle of the opening. Inputs are the caller's own."""
    values = [x if x is None else x.copy() for x in lean(every_kind["layer"])]
    held = [weakref.ref(x) for x in values if x is not None]
    alive: list[int] = []
    proof = prove(every_kind["layer"], drained(values), lambda: alive.append(sum(ref() is not None for ref in held)))
    assert alive == [0] and not values and proof == prove(every_kind["layer"], every_kind["layer"].values)


def test_no_table_outlives_its_tree(every_kind: dict[str, Case], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does the backend keep one: by the opening all levels are gone, of a tree whose first rounds are calls of their own."""
    case, held, alive = every_kind["layer"], list["weakref.ref[Any]"](), list[int]()
    build = FractionTreeProver.build

    def noted(tree: FractionTreeProver, fingerprint: Any) -> None:
        build(tree, fingerprint)
        held.extend(weakref.ref(memory_of(t.cells)) for level in tree.levels for t in level)

    def memory_of(cells: Any) -> Any:
        return cells if cells.base is None else memory_of(cells.base)

    monkeypatch.setattr(FractionTreeProver, "build", noted)
    assert max(plan.variables for plan in case.shape.plans) > ROUNDS_AT_ONCE + 1
    prove(case, list(case.values), lambda: alive.append(sum(ref() is not None for ref in held)))
    assert alive == [0] and held


@pytest.mark.parametrize("kind", KINDS)
def test_cells_alive_at_a_time(every_kind: dict[str, Case], kind: str) -> None:
    """As they are while values are computed, committed ones given, for all tensors and for those that a proof reads."""
    case = every_kind[kind]
    given = [t for t, op in zip(case.graph.tensors, case.graph.ops) if isinstance(op, Committed)]
    held = {t.index for t, op in zip(case.graph.tensors, case.graph.ops) if isinstance(op, Committed | Input)}

    class Watched(_Evaluation):
        most = 0

        def compute(self, i: int) -> None:
            super().compute(i)
            self.most = max(self.most, sum(self.graph.tensors[j].cells for j in self.values if j not in held))

    for wanted in (case.graph.tensors, read_by_proof(case.graph)):
        run = Watched(case.graph, case.inputs, ReferenceOps(), {t.index: case.values[t.index] for t in given}, 0)
        run.run([t.index for t in wanted])
        assert run.most == most_alive(case.graph, wanted, given)


def test_hints_make_their_outputs_alive(every_kind: dict[str, Case]) -> None:
    """Where nothing is given, a hint's tensors are alive from when the first of them is computed."""
    graph = every_kind["layer"].graph
    outputs: list[Tensor] = max((list(h.outputs) for h in graph.hints), key=len)
    assert len(outputs) > 1 and most_alive(replace(graph), outputs[:1], []) >= sum(t.cells for t in outputs)
