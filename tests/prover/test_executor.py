"""The relation executed: torch equals the reference, every assertion holds, and every committed cell is constrained."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch

from protocol.manifest import RunManifest, StepRange
from protocol.model_config import PROJECTIONS
from protocol.relation.graph import Committed, Graph, IntArray, Operation
from protocol.relation.model import build, commitment_tensors
from protocol.statement import Task, task_list
from prover.executor.calibrate import CalibrationError
from prover.executor.evaluate import Inputs, RangeOverflow, RelationBroken, check, evaluate
from prover.executor.reference import ReferenceOps
from prover.executor.torch_ops import TorchOps
from prover.executor.trainer import State, Trainer, WindowTrace
from prover.witness.task import outputs, task_values
from tests.toy import EVEN, Toy, toy, toy_optimizer

torch.set_num_threads(1)  # on a busy machine two spinning threads are slower than one

SUBSETS = [PROJECTIONS, ("q_proj",), ("v_proj", "o_proj"), ("gate_proj",), ("down_proj",), ("k_proj", "up_proj")]


def trainer_of(t: Toy, reference: bool = False) -> Trainer:
    return Trainer(t.manifest, t.base, t.tokens, t.mask, ReferenceOps() if reference else TorchOps())


def boundary(t: Toy, window: int, trace: WindowTrace, state: State) -> dict[str, Mapping[str, IntArray]]:
    """By name what a window's tasks read and write."""
    found = t.base | {"dataset": {"tokens": t.tokens, "mask": t.mask}} | {f"state/{n}@{window}": arrays for n, arrays in state.items()}
    return found | {str(name): arrays for name, arrays in trace.commitments(window, t.manifest.part_numbers).items()}


def task_inputs(task: Task, arrays: Mapping[str, Mapping[str, IntArray]]) -> Inputs:
    return {(role, key): array for role, name in task.commitments for key, array in arrays[str(name)].items()}


def tasks(m: RunManifest, window: int = 0) -> list[Task]:
    return [task for task in task_list(m) if task.window == window]


ADAMW = {"kind": "adamw", "learning_rate": "0.01"}
ALL = ADAMW | {"weight_decay": "0.1", "max_grad_norm": "0.5", "schedule": "cosine", "warmup_steps": 1, "gradient_accumulation": 2}


WIDE = {"vocab": 1003, "hidden": 96, "heads": 6, "kv_heads": 2, "head_dim": 16, "ffn": 250}
CASES = {
    "odd": {"layers": 2, "steps": 3, "window_steps": 2},
    "even": {"layers": 1, "steps": 2, "window_steps": 2, "sizes": EVEN},
    "plain sgd": {"layers": 1, "steps": 2, "window_steps": 1, "momentum": "0"},
    "odd scale": {"layers": 1, "steps": 1, "window_steps": 1, "r": 3, "lora_alpha": 7, "sequence_length": 3},
    "some modules": {"layers": 2, "steps": 2, "window_steps": 2, "target_modules": ("v_proj", "gate_proj")},
    "secret loss": {"layers": 1, "steps": 1, "window_steps": 1, "publish_loss": False},
    "adamw": ADAMW | {"layers": 1, "steps": 3, "window_steps": 2, "sizes": EVEN, "epsilon": "1"},
    "adamw with everything": ALL | {"layers": 2, "steps": 3, "window_steps": 2, "batch_size": 1},
    "clipped sgd": {"layers": 2, "steps": 4, "window_steps": 2, "max_grad_norm": "1", "sizes": EVEN, "schedule": "linear"},
    "parts": {"layers": 2, "steps": 3, "window_steps": 2, "batch_size": 3, "parts": 3, "sizes": EVEN, "publish_loss": False},
    "parts with everything": ALL | {"layers": 2, "steps": 3, "window_steps": 2, "parts": 2},
    "parts, some modules": {"layers": 1, "steps": 2, "window_steps": 1, "parts": 2, "target_modules": ("o_proj", "down_proj")},
    "rslora": {"layers": 1, "steps": 2, "window_steps": 1, "r": 3, "use_rslora": True, "kind": "adamw", "beta2": "0.95"},
    "odd widths": {"layers": 1, "steps": 1, "window_steps": 1, "sizes": WIDE, "sequence_length": 3, "batch_size": 1, "r": 1} | ADAMW,
}


@pytest.mark.parametrize("case", CASES)
def test_torch_equals_reference_and_every_assertion_holds(case: str) -> None:
    t = toy(**CASES[case])  # type: ignore[arg-type]
    state: State = {}
    for w, window in enumerate(t.manifest.windows()):
        trace = trainer_of(t).run_window(window, state or None)
        other = trainer_of(t, reference=True).run_window(window, state or None)
        arrays = [boundary(t, w, result, state) for result in (trace, other)]
        left, published = set(arrays[0]) - set(t.base) - {"dataset", *(f"state/{n}@{w}" for n in state)}, []
        for task in tasks(t.manifest, w):
            graph, values = task_values(
                t.manifest, task.kind, window, task.subject, task_inputs(task, arrays[0]), every=True, part=task.part
            )
            check(graph, dict(enumerate(values)))
            names = dict(task.commitments)
            for (role, key), array in outputs(graph, dict(enumerate(values))).items():
                for found in arrays:
                    assert np.array_equal(array, found[str(names[role])][key]), (str(task), role, key)
                left -= {str(names[role])}
            published += [(task.kind, values[assertion.tensor.index].tolist()) for assertion in graph.published]
        assert left == set() and published == [("head", trace.loss.tolist())] * t.manifest.publish_loss
        state = trace.state_out
    assert all((n in trace.delivered) and trace.delivered[n] for n in range(t.manifest.model.layers))


@pytest.mark.parametrize("optimizer", [{}, ADAMW | {"max_grad_norm": "1"}, {"target_modules": ("k_proj", "down_proj")}])
@pytest.mark.parametrize("parts", [2, 4])
def test_the_number_of_parts_changes_no_bit(parts: int, optimizer: dict[str, object]) -> None:
    t = toy(layers=2, steps=3, window_steps=2, batch_size=4, examples=9, sizes=EVEN, **optimizer)
    split, states = replace(t, manifest=replace(t.manifest, parts=parts)), [None, None]
    for window in t.manifest.windows():
        whole, other = (trainer_of(run).run_window(window, state) for run, state in zip((t, split), states, strict=True))
        states = [whole.state_out, other.state_out]
        for name in ("x", "dx", "norms"):
            for n, array in getattr(whole, name).items():
                assert np.array_equal(array, getattr(other, name)[n]), (name, n)
        for name in ("state_out", "delivered"):
            for n, tensors in getattr(whole, name).items():
                assert all(np.array_equal(array, getattr(other, name)[n][key]) for key, array in tensors.items()), (name, n)
        assert np.array_equal(whole.loss, other.loss) and (whole.clip is None or np.array_equal(whole.clip, other.clip))
        assert not (whole.adapters or whole.gradients or whole.sums)
        assert sorted(other.gradients) == [(n, p) for n in range(2) for p in range(1, parts + 1)] and len(other.sums) == parts - 1


@pytest.mark.parametrize("parts", [1, 2])
def test_commitments_hold_what_the_trainer_gives(parts: int) -> None:
    t = toy(layers=2, steps=2, window_steps=2, parts=parts, **ADAMW, max_grad_norm="1")
    window = t.manifest.windows()[0]
    found = boundary(t, 0, trainer_of(t).run_window(window), {})
    assert set(found) == {str(name) for task in task_list(t.manifest) for _, name in task.commitments}
    for name, arrays in found.items():
        wanted = commitment_tensors(t.manifest, name.split("@")[0], window)
        assert sorted((k, v.shape) for k, v in arrays.items()) == sorted(wanted), name


def test_range_tasks_hold_and_notice() -> None:
    t = toy()
    arrays = t.base | {"dataset": {"tokens": t.tokens, "mask": t.mask}}
    for name, group in arrays.items():
        inputs = {(name.split("/")[0], k): v for k, v in group.items()}
        graph, values = task_values(t.manifest, "range", None, name, inputs, every=True)
        check(graph, dict(enumerate(values)))
        key = next(iter(inputs))
        bad = inputs[key].copy()
        bad.flat[-1] = t.manifest.model.vocab if name == "dataset" else 1 << 15
        with pytest.raises((RangeOverflow, RelationBroken)):
            graph, values = task_values(t.manifest, "range", None, name, inputs | {key: bad}, every=True)


SPLIT = {"batch_size": 2, "parts": 2}


@pytest.mark.parametrize(("name", "changes"), [
    ("embed(0)", {}), ("layer(0, 1)", {}), ("head(0)", {}), ("layer(0, 1)", ALL | {"target_modules": ("q_proj",)}), ("clip(0)", ALL),
    ("layer(0, 1) part 2", SPLIT), ("update(0, 1)", SPLIT), ("update(0, 0)", ALL | SPLIT | {"target_modules": ("q_proj",)}),
    ("head(0) part 1", SPLIT), ("head(0) part 2", SPLIT),
], ids=lambda x: str(x) if not isinstance(x, dict) else x.get("kind", "sgd"))
def test_every_committed_tensor_is_constrained(name: str, changes: dict[str, object]) -> None:
    """One cell of one committed tensor off by one, everything virtual recomputed: some assertion must fail."""
    t = toy(**{"layers": 2, "steps": 2, "window_steps": 2, "sizes": EVEN, "batch_size": 1, "sequence_length": 3} | changes)  # type: ignore[arg-type]
    window, rng = t.manifest.windows()[0], np.random.default_rng(5)
    trace = trainer_of(t).run_window(window)
    task = next(task for task in tasks(t.manifest) if str(task) == name)
    inputs = task_inputs(task, boundary(t, 0, trace, {}))
    graph, values = task_values(t.manifest, task.kind, window, task.subject, inputs, every=True, part=task.part)
    committed = {i.index: values[i.index] for i, op in zip(graph.tensors, graph.ops, strict=True)
                 if isinstance(op, Committed)}
    free, reads = [], virtual_dependencies(graph)
    for index, honest in committed.items():
        tensor, lie = graph.tensors[index], honest.copy()
        cell = rng.integers(lie.size)
        lie.flat[cell] += -1 if lie.flat[cell] == tensor.hi else 1
        kept = {i: v for i, v in enumerate(values) if i in committed or index not in reads[i]}
        changed = kept | {index: lie}
        todo = [t for t in graph.tensors if t.index not in changed]
        changed |= evaluate(graph, inputs, todo, ReferenceOps(), changed)
        try:
            check(graph, changed)
            free.append(tensor.name)
        except RelationBroken:
            continue
    assert free == []


def sources_of(op: Operation) -> list[int]:
    found = [term.tensor for term in getattr(op, "terms", ())]
    found += [getattr(op, key) for key in ("tensor", "a", "b", "high", "low") if hasattr(op, key)]
    return [t.index for t in found]


def virtual_dependencies(graph: Graph) -> list[set[int]]:
    """For every virtual tensor the committed tensors that it is computed from."""
    reads: list[set[int]] = []
    for i, op in enumerate(graph.ops):
        reads.append({i} if isinstance(op, Committed) else set().union(*[reads[j] for j in sources_of(op)]))
    return reads


def needed(graph: Graph) -> set[int]:
    """Tensors that an output or a published value depends on."""
    hints = {t.index: h for h in graph.hints for t in h.outputs}
    stack = [t.index for t, op in zip(graph.tensors, graph.ops, strict=True)
             if isinstance(op, Committed) and op.commitment != "witness"] + [p.tensor.index for p in graph.published]
    seen: set[int] = set()
    while stack:
        i = stack.pop()
        if i in seen:
            continue
        seen.add(i)
        op = graph.ops[i]
        stack += [t.index for t in (*hints[i].inputs, *hints[i].outputs)] if i in hints else []
        stack += sources_of(op)
    return seen


@pytest.mark.parametrize("optimizer", [{}, ALL, ALL | {"parts": 2}], ids=["sgd", "all", "parts"])
@pytest.mark.parametrize("modules", SUBSETS)
def test_no_dead_committed_values(modules: tuple[str, ...], optimizer: dict[str, object]) -> None:
    m = toy(layers=2, steps=2, window_steps=2, target_modules=modules, sizes=EVEN, **optimizer).manifest
    for task in tasks(m):
        graph = task.graph(m)
        used = needed(graph)
        dead = [t.name for t, op in zip(graph.tensors, graph.ops, strict=True)
                if isinstance(op, Committed) and t.index not in used and ".limb" not in t.name]
        assert dead == []


@pytest.mark.parametrize("optimizer", [{}, ALL, ALL | {"parts": 2}], ids=["sgd", "all", "parts"])
def test_node_list_does_not_depend_on_the_number_of_steps(optimizer: dict[str, object]) -> None:
    m = toy(layers=2, steps=6, window_steps=3, **optimizer).manifest
    for task in tasks(m):
        graphs = [build(m, task.kind, StepRange(first, count), task.subject, True, task.part)
                  for first, count in ((0, 1), (0, 3), (3, 1), (3, 3))]
        lists = [[(type(op).__name__, t.axes) for t, op in zip(g.tensors, g.ops, strict=True)] for g in graphs]
        assert lists[0] == lists[1] and lists[2] == lists[3] and len(lists[0]) == len(lists[2])


def test_a_window_of_many_steps_is_the_windows_of_one() -> None:
    """Clipping spans layers and stays within a step: how steps are cut into windows changes nothing."""
    t = toy(layers=2, steps=4, window_steps=4, sizes=EVEN, **ALL)
    whole, state = trainer_of(t).run_window(StepRange(0, 4)), None
    factors = []
    for k in range(4):
        trace = trainer_of(t).run_window(StepRange(k, 1), state)
        state, factors = trace.state_out, [*factors, *(trace.clip if trace.clip is not None else [])]
    assert whole.clip is not None and whole.clip.tolist() == factors and len(set(factors)) > 1 and min(factors) < 1 << 16
    for n, tensors in whole.state_out.items():
        assert state is not None and all(np.array_equal(v, state[n][k]) for k, v in tensors.items())


def test_mean_gradients_are_all_that_updates_need(monkeypatch: pytest.MonkeyPatch) -> None:
    """With clipping, forward and backward pass are evaluated no more often than without."""
    seen: list[str] = []
    lookup = TorchOps.table
    monkeypatch.setattr(TorchOps, "table", lambda self, x, table: (seen.append(table), lookup(self, x, table))[1])
    counts = []
    for limit in ("0", "1"):
        t = toy(layers=2, steps=1, window_steps=1, sizes=EVEN, **ADAMW, max_grad_norm=limit)
        seen.clear()
        trainer_of(t).run_window(t.manifest.windows()[0])
        counts.append(len(seen))
    assert counts[0] == counts[1] > 0


def test_relation_digest_depends_on_what_is_proved() -> None:
    one, other = toy(learning_rate="0.02").manifest, toy(learning_rate="0.03").manifest
    w = one.windows()[0]
    digests = {build(one, "layer", w, 0).digest(), build(one, "layer", w, 0).digest()}
    assert len(digests) == 1 and build(other, "layer", w, 0).digest() not in digests


def test_overflow_names_tensor_step_and_value() -> None:
    t = toy(layers=1, steps=3, window_steps=3)
    wild = replace(t, manifest=replace(t.manifest, optimizer=toy_optimizer(learning_rate="1024")))
    with pytest.raises(RangeOverflow) as caught:
        trainer_of(wild).run_window(wild.manifest.windows()[0])
    assert caught.value.step in (0, 1, 2) and caught.value.tensor and str(caught.value.value) in str(caught.value)
    assert "calibrate" in str(caught.value)


def test_calibration_refuses_a_diverging_run() -> None:
    with pytest.raises(CalibrationError, match="learning rate"):
        toy(layers=1, learning_rate="1024")


def test_large_products_stay_exact() -> None:
    """Beyond 2^53 the float64 path must not be taken."""
    g = Graph()
    a, b = g.input("x_in", "a", "sd", (2, 3), -(1 << 29), 1 << 29), g.input("x_in", "b", "vd", (2, 3), -(1 << 29), 1 << 29)
    p = g.product("p", "sd,vd->sv", a, b)
    rng = np.random.default_rng(1)
    inputs = {("x_in", k): rng.integers(-(1 << 29), 1 << 29, (2, 3)) | 1 for k in "ab"}
    results = [evaluate(g, inputs, [p], ops)[p.index] for ops in (ReferenceOps(), TorchOps())]
    assert np.array_equal(*results)


@pytest.mark.parametrize(("g", "bits"), [(0, 16), (7, 16), (10, 24)])
def test_softmax_shift_bisection_equals_guess_and_correct(g: int, bits: int) -> None:
    rng = np.random.default_rng(g)
    rows = rng.normal(size=(50, 40)) * rng.choice([0.01, 1, 8], (50, 1)) * 2.0**g
    s, mask = rows.round().astype(np.int64) - 1000, np.tri(50, 40, dtype=np.int64)
    ours, torch_ops = ReferenceOps(), TorchOps()
    for m in (None, mask):
        expected = ours.softmax_shift(s, m, g, bits)
        found = torch_ops.softmax_shift(torch_ops.load(s), None if m is None else torch_ops.load(m), g, bits)
        assert np.array_equal(expected, torch_ops.store(found))
