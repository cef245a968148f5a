"""The relation leaves no freedom: changing any committed cell breaks an assertion, whatever the rest of the witness is.

Every cell of toy witnesses (and, with -m attacks, 10^5 worlds of medium ones for each operation of each kind of task) is moved in a
world of its own: by ±1, by powers of two, out of its range, by a wrap of p that an equation does not see, to any element
(tests/support/worlds.py). Once nothing else that is committed changes; once the adversary also finds every value anew that the
honest prover would compute from the cell, so that only an equation of the cell itself can stop it.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from protocol.field import GOLDILOCKS
from protocol.relation.graph import Committed, Graph, Input, Lookup, Zero
from protocol.relation.softmax import LAST
from protocol.statement import Task, task_list
from tests.support.architectures import feature_toy
from tests.support.evil import Lie, attack
from tests.support.stage import Case, Stage
from tests.support.worlds import PLACES, Worlds, chosen, movable, moves, survivors
from tests.toy import EVEN, ODD, toy

KINDS = 6  # kinds of moves
TEN_TO_FIVE = 100_000
ADAMW = {"kind": "adamw", "learning_rate": "0.01", "weight_decay": "0.1", "max_grad_norm": "0.1", "schedule": "cosine", "warmup_steps": 1}
SMALL = {"layers": 1, "batch_size": 1, "examples": 3, "sizes": EVEN}
Found = dict[tuple[str, bool], list[tuple[int, ...]]]


@cache
def on_stage(name: str) -> Stage:
    """Toy runs that together have every kind of task and every feature of the relation."""
    if name == "adamw":
        return Stage(toy(steps=2, window_steps=1, sequence_length=3, target_modules=("q_proj", "down_proj"), r=1, **SMALL, **ADAMW))
    if name == "windows":
        return Stage(toy(steps=4, window_steps=2, sequence_length=2, target_modules=("down_proj",), r=1, **SMALL, **ADAMW))
    if name == "sgd":
        return Stage(toy(sizes=ODD, layers=2, steps=2, window_steps=1, sequence_length=3, examples=3))
    parted = SMALL | {"gradient_accumulation": 2, "parts": 2, "sequence_length": 3, "seed": 10}  # the last part has a masked token
    if name == "parts":
        return Stage(toy(steps=2, window_steps=1, target_modules=("q_proj", "down_proj"), r=1, **parted, **ADAMW))
    if name == "windows in parts":
        return Stage(toy(steps=4, window_steps=2, target_modules=("v_proj",), r=1, **parted | {"examples": 8}))
    if name == "rotate":
        found = toy(steps=2, window_steps=1, sequence_length=2, target_modules=("q_proj",), **SMALL)
        return Stage(replace(found, manifest=replace(found.manifest, rotation_windows=1)))
    sizes = {"layers": 1, "steps": 1, "window_steps": 1, "batch_size": 1, "examples": 2, "sequence_length": 3}
    return Stage(feature_toy(name, EVEN, target_modules=("k_proj",), **sizes))


def cases(name: str, kinds: tuple[str, ...] = ()) -> Iterator[Case]:
    """One task of each kind, of each layer and update in the first and last window, of each part of a head."""
    made, seen = on_stage(name), set[tuple[object, ...]]()
    tasks = task_list(made.toy.manifest)
    for task in [*tasks[::-1]]:
        number = task.part if task.kind in ("range", "rotate", "head") else 0
        mark = (task.kind, task.layer, number, task.kind in ("layer", "update") and task.window == 0)
        if mark not in seen and (not kinds or task.kind in kinds):
            seen.add(mark)
            yield made.case(task.kind, task.window, task.layer, task.part)


def worlds_of(case: Case, graph: Graph | None = None) -> Worlds:
    return Worlds(graph or case.graph, case.values, dict(case.inputs))


def unread(worlds: Worlds, index: int, change: np.ndarray, cell: tuple[int, ...], adaptive: bool) -> bool:
    """A score index S has no range check. In a masked cell nothing reads it; elsewhere it is z − x of a z with 24 bits and an x
    with 16, so another field element than those leaves no row shift z."""
    name = worlds.graph.tensors[index].name
    if not name.endswith(".S"):
        return False
    value = GOLDILOCKS.add(change, worlds.honest(index))[cell]
    centred = int(value) - (GOLDILOCKS.p if int(value) > GOLDILOCKS.p // 2 else 0)
    first = int(name.removesuffix(".S").partition("@")[2] or 0)  # query of its band
    masked = name.startswith("attn") and cell[-1] > first + cell[-2]
    return masked or adaptive and not -(1 << 23) - LAST <= centred < 1 << 23


def free(case: Case, passes: int, adaptives: tuple[bool, ...] = (False, True), graph: Graph | None = None, only: set[int] | None = None,
         number: int = 4) -> tuple[Found, int]:
    """(cells that can be moved without breaking an assertion, number of worlds)."""
    worlds, rng, tried = worlds_of(case, graph), np.random.default_rng(number), 0
    out: Found = {}
    for index in movable(case):
        for adaptive in adaptives if only is None or index in only else ():
            for n in range(passes):
                change = moves(worlds, index, rng, n)
                tried += change.size
                found = survivors(worlds, index, change, adaptive, chosen(case, index))
                found = [cell for cell in found if not unread(worlds, index, change, cell, adaptive)]
                if found:
                    out.setdefault((worlds.graph.tensors[index].name, adaptive), []).extend(found)
    return out, tried


def free_cells(case: Case, passes: int) -> Found:
    return free(case, passes)[0]


@pytest.mark.parametrize("name", ["adamw", "qwen2"])
def test_cells_of_a_toy_run_are_determined(name: str) -> None:
    for case in cases(name, ("range", "embed", "clip", "head")):
        assert free_cells(case, KINDS) == {}, case.task
    if name == "adamw":
        assert free_cells(next(cases(name, ("layer",))), 1) == {}


def test_cells_of_a_step_in_parts_are_determined() -> None:
    """Adapters, gradients and sums that are handed on have no range check of their own, and no freedom either."""
    for case in cases("parts", ("head", "update")):
        assert free_cells(case, KINDS if case.task.kind == "head" else 2) == {}, case.task
    layer = next(cases("parts", ("layer",)))
    ops = zip(layer.graph.tensors, layer.graph.ops)
    handed_on = {t.index for t, op in ops if isinstance(op, Committed) and op.commitment == "gradient"}
    assert len(handed_on) == 5 and free(layer, KINDS, only=handed_on)[0] == {}


@pytest.mark.attacks
@pytest.mark.parametrize("name", ["adamw", "qwen2", "sgd", "rotate", "llama3", "qwen3", "rows", "parts"])
def test_every_cell_of_toy_runs_is_determined(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    tried = alive = 0
    for case in cases(name):
        found, count = free(case, KINDS)
        tried, alive = tried + count, alive + sum(map(len, found.values()))
        assert found == {}, case.task
    with capsys.disabled():
        print(f"\nevery cell of {name}: tried {tried}, rejected {tried - alive}, survivors {alive}")


def test_every_cell_of_a_rotated_copy_is_determined() -> None:
    for case in cases("rotate", ("rotate",)):
        assert free_cells(case, KINDS) == {}, case.task


@pytest.mark.parametrize("name", ["windows", "windows in parts"])
def test_steps_of_a_window_are_determined(name: str) -> None:
    """Recurrences over the steps of a window; what is computed anew from a cell includes the cell, so nothing is."""
    for case in cases(name, ("layer", "clip") if name == "windows" else ("update",)):
        assert free(case, KINDS, (False,))[0] == {}, case.task


def test_what_is_called_broken_is_broken() -> None:
    """The quick judgement of all worlds of a tensor at once against the evaluation of single worlds."""
    rng, seen = np.random.default_rng(5), 0
    for case in cases("adamw", ("embed", "clip", "head", "layer")):
        worlds = worlds_of(case)
        for index in movable(case)[:: 8 if case.task.kind == "layer" else 2]:
            for adaptive in (False, True):
                change = GOLDILOCKS.embed(rng.choice([-300, -1, 1, 7, 1 << 20], case.graph.tensors[index].shape))
                broken = worlds.broken(index, change, adaptive, PLACES)
                for cell in map(tuple, rng.permutation(np.argwhere(broken))[:2].tolist()):
                    delta, seen = int(change[cell]), seen + 1
                    delta -= GOLDILOCKS.p if delta > GOLDILOCKS.p // 2 else 0
                    assert worlds.evaluate_one(index, cell, delta, adaptive), (case.graph.tensors[index].name, cell, delta, adaptive)
    assert seen > 100


# the tests have teeth --------------------------------------------------------------------------------------------------


def without(case: Case, assertion: Lookup | Zero) -> Graph:
    graph = case.task.graph(case.stage.toy.manifest)
    if isinstance(assertion, Lookup):
        graph.lookups = [x for x in graph.lookups if x.columns[0].name != assertion.columns[0].name or x.table != assertion.table]
        assert len(graph.lookups) == len(case.graph.lookups) - 1
    else:
        graph.zeros = [x for x in graph.zeros if x.tensor.index != assertion.tensor.index]  # of two roles one name can be equal
        assert len(graph.zeros) == len(case.graph.zeros) - 1
    return graph


def unnecessary(case: Case, passes: int, every: int = 1) -> list[str]:
    """Assertions without which no cell would be free."""
    worlds, out = worlds_of(case), []
    for assertion in [*case.graph.lookups, *case.graph.zeros][::every]:
        tensors = assertion.columns if isinstance(assertion, Lookup) else (assertion.tensor,)
        near = {i for i in range(len(case.graph.tensors)) for t in tensors if worlds.leaves[t.index] >> i & 1}
        if not any(free(case, passes, (adaptive,), without(case, assertion), near)[0] for adaptive in (False, True)):
            out.append(tensors[0].name)
    return out


# One moved cell cannot tell: several digits move together, the sum over tokens is about inputs alone, max(D, M) needs just the
# other value, and the loss of a token is only given a bound. test_uniqueness.py removes the first and the third kind.
TOGETHER = {"ids.high", "ids.low", "ids.high.sum", "ids.low.sum", "ids.equal", "loss_tokens", "token_loss", "over.limb0"}


@pytest.mark.parametrize("kind", ["clip", "embed"])
def test_without_any_one_assertion_a_cell_is_free(kind: str) -> None:
    for case in cases("adamw", (kind,)):
        assert set(unnecessary(case, 12)) <= TOGETHER, case.task


@pytest.mark.attacks
@pytest.mark.parametrize("name", ["adamw", "qwen3", "parts"])
def test_without_any_one_assertion_of_a_layer_or_head_a_cell_is_free(name: str) -> None:
    for case in cases(name, ("layer", "head", "update")):
        assert set(unnecessary(case, 12)) <= TOGETHER, case.task


# inputs ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["adamw", "qwen2", "parts"])
def test_every_input_is_read(name: str) -> None:
    """A tensor of another commitment that no assertion depends on would be bound by nothing."""
    for case in cases(name):
        worlds = worlds_of(case)
        read = 0
        for t in [z.tensor for z in [*case.graph.zeros, *case.graph.published]] + [c for x in case.graph.lookups for c in x.columns]:
            read |= worlds.leaves[t.index]
        for tensor, op in zip(case.graph.tensors, case.graph.ops):
            if isinstance(op, Input | Committed):
                assert read >> tensor.index & 1, tensor.name


WRITTEN = ("x_out", "dx_out", "state_out", "delivered", "norm", "new", "gradient", "loss")


def writers(stage: Stage) -> dict[str, list[tuple[Task, str]]]:
    """For each commitment the tasks that prove what is in it, with its role."""
    out: dict[str, list[tuple[Task, str]]] = {}
    for task in task_list(stage.toy.manifest):
        for position, (role, name) in enumerate(task.commitments):
            start = task.kind == "range" and position == 0
            if start or role in WRITTEN or (task.kind, role) in (("clip", "clip"), ("update", "adapter")):
                out.setdefault(str(name), []).append((task, role))
    return out


def bounds(graph: Graph, role: str) -> dict[str, tuple[int, int]]:
    return {op.tensor_name: (t.lo, t.hi) for t, op in zip(graph.tensors, graph.ops)
            if isinstance(op, Committed | Input) and op.commitment == role}


@pytest.mark.parametrize("name", ["adamw", "windows", "sgd", "qwen2", "qwen3", "rows", "parts", "windows in parts"])
def test_every_input_has_one_writer_that_proves_its_range(name: str) -> None:
    """What a task takes for granted about an input, some other task has proved of the whole commitment."""
    stage, made = on_stage(name), writers(on_stage(name))
    for task in task_list(stage.toy.manifest):
        graph = task.graph(stage.toy.manifest)
        for role, commitment in task.commitments:
            (writer, other), = made[str(commitment)]
            proved = bounds(writer.graph(stage.toy.manifest), other)
            assert proved.keys() == set(stage.arrays[str(commitment)]), commitment
            for tensor, (lo, hi) in bounds(graph, role).items():
                assert lo <= proved[tensor][0] and proved[tensor][1] <= hi, (str(task), tensor)


def test_a_copy_has_what_its_original_has() -> None:
    stage = on_stage("rotate")
    for (writer, role), in writers(stage).values():
        if writer.kind == "rotate":
            assert bounds(writer.graph(stage.toy.manifest), role).keys() == set(stage.arrays[str(writer.commitments[0][1])])


# whole proofs ----------------------------------------------------------------------------------------------------------


def prove_moved(case: Case, rng: np.random.Generator) -> str:
    """A dishonest proof of the task with one random cell moved, and what follows computed from it."""
    indices = [i for i in movable(case) if not case.graph.tensors[i].name.endswith((".S", ".z"))]
    index = int(rng.choice(indices))
    cell = tuple(int(rng.integers(n)) for n in case.graph.tensors[index].shape)

    def change(a: np.ndarray) -> np.ndarray:
        a[cell] += int(rng.choice([1, -1, 3, 256]))
        return a

    op = case.graph.ops[index]
    name = f"{op.commitment}/{op.tensor_name}" if isinstance(op, Committed) else case.graph.tensors[index].name
    return attack(case, Lie(cells={name: change})).reason


def test_proofs_of_moved_cells_are_rejected() -> None:
    rng = np.random.default_rng(11)
    for case in cases("adamw", ("embed", "clip", "head")):
        assert prove_moved(case, rng) == "opening-relation"


@pytest.mark.attacks
def test_many_proofs_of_moved_cells_are_rejected(capsys: pytest.CaptureFixture[str]) -> None:
    rng, reasons = np.random.default_rng(12), list[str]()
    for name in ("adamw", "rotate", "qwen3", "rows", "parts"):
        for case in cases(name, ("embed", "clip", "head", "layer", "rotate", "update")):
            reasons += [prove_moved(case, rng) for _ in range(4)]
    with capsys.disabled():
        print(f"\nproofs of moved cells: tried {len(reasons)}, rejected {len(reasons) - reasons.count('accepted')}, "
              f"survivors {reasons.count('accepted')}")
    assert set(reasons) == {"opening-relation"}


# medium sizes ----------------------------------------------------------------------------------------------------------


@cache
def medium(name: str) -> Stage:
    sizes = {"vocab": 64, "hidden": 32, "heads": 4, "kv_heads": 2, "head_dim": 8, "ffn": 48}
    common = {"layers": 1, "batch_size": 2, "sequence_length": 12, "examples": 6, "r": 2}
    if name == "clip":  # one cell a step: a window of many steps
        return Stage(toy(steps=48, window_steps=48, sequence_length=2, target_modules=("v_proj",), r=1, **SMALL, **ADAMW))
    if name == "adamw":
        return Stage(toy(steps=2, window_steps=1, sizes=sizes, target_modules=("q_proj", "down_proj"), **common, **ADAMW))
    if name == "rotate":
        found = toy(steps=2, window_steps=1, sizes=sizes, target_modules=("q_proj",), **common)
        return Stage(replace(found, manifest=replace(found.manifest, rotation_windows=1)))
    return Stage(feature_toy(name, sizes, steps=1, window_steps=1, target_modules=("k_proj", "up_proj"), **common))


def operation(worlds: Worlds, index: int) -> str:
    found = [h.kind for h in worlds.graph.hints if any(t.index == index for t in h.outputs)]
    return found[0] if found else "range"


@pytest.mark.attacks
@pytest.mark.parametrize("name", ["adamw", "clip", "rotate", "qwen2", "qwen3", "rows"])
def test_medium_witnesses(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """At least 10^5 worlds for each operation of each kind of task."""
    kinds = {"clip": ("clip",), "rotate": ("rotate",), "adamw": ("layer", "head", "embed", "range")}.get(name, ("layer", "range"))
    stage, rng = medium(name), np.random.default_rng(8)
    for kind in kinds:
        tasks = [t for t in task_list(stage.toy.manifest) if t.kind == kind][-1 if kind not in ("range", "rotate") else 0:]
        counts, found = dict[str, int](), Found()
        made = [(c, worlds_of(c)) for c in (stage.case(t.kind, t.window, t.layer, t.part) for t in tasks)]
        by_operation: dict[str, list[tuple[Case, Worlds, int]]] = {}
        for case, worlds in made:
            for index in movable(case):
                by_operation.setdefault(operation(worlds, index), []).append((case, worlds, index))
        for op, members in by_operation.items():
            number = 0
            while counts.get(op, 0) < TEN_TO_FIVE:
                for case, worlds, index in members:
                    # a row shift that is moved with all that follows takes the evaluation of a whole world
                    adaptive = number % 2 == 1 and (op != "softmax_shift" or number < 2 * KINDS)
                    change = moves(worlds, index, rng, number // 2 % KINDS)
                    cells = survivors(worlds, index, change, adaptive, chosen(case, index))
                    cells = [cell for cell in cells if not unread(worlds, index, change, cell, adaptive)]
                    if cells:
                        found.setdefault((case.graph.tensors[index].name, adaptive), []).extend(cells)
                    counts[op] = counts.get(op, 0) + change.size
                number += 1
        with capsys.disabled():
            alive, tried = sum(map(len, found.values())), sum(counts.values())
            print(f"\ncells of {name} {kind} ({', '.join(sorted(counts))}): tried {tried}, rejected {tried - alive}, survivors {alive}")
        assert found == {}
