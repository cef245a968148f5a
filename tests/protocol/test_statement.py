"""Statements and the list of tasks: everything is bound, every tensor is written once and read by whom it should be."""

import json
from dataclasses import replace

import numpy as np
import pytest

from protocol.errors import VerificationError
from protocol.field import GOLDILOCKS
from protocol.manifest import RunManifest
from protocol.params import profile
from protocol.relation.graph import WITNESS, Committed, Input
from protocol.schedule.task import TaskShape
from protocol.statement import (
    BUDGETS,
    Name,
    commitment_layout,
    max_blinding,
    opening_counts,
    standing,
    statement_content,
    statement_id,
    task_list,
)
from tests.toy import EVEN, ODD, toy_manifest


def registered(**arguments: object) -> RunManifest:
    manifest = replace(toy_manifest(**arguments), profile="goldilocks-2^12")
    return replace(manifest, budgets=opening_counts(manifest))


@pytest.fixture(scope="module")
def manifest() -> RunManifest:
    return registered(sizes=EVEN, layers=2, steps=5, window_steps=2)


@pytest.mark.parametrize(
    "arguments",
    [{"sizes": EVEN, "layers": 2, "steps": 3, "window_steps": 2}, {"sizes": ODD, "layers": 1, "steps": 1},
     {"sizes": EVEN, "layers": 2, "steps": 2, "window_steps": 1, "momentum": "0", "target_modules": ("down_proj",)},
     {"sizes": EVEN, "layers": 2, "steps": 2, "window_steps": 1, "target_modules": ("v_proj", "o_proj"), "publish_loss": False},
     {"sizes": EVEN, "layers": 2, "steps": 3, "window_steps": 2, "kind": "adamw", "max_grad_norm": "1", "weight_decay": "0.1"},
     {"sizes": EVEN, "layers": 1, "steps": 2, "window_steps": 1, "max_grad_norm": "1"},
     {"sizes": ODD, "layers": 2, "steps": 3, "window_steps": 2, "parts": 2},
     {"sizes": EVEN, "layers": 1, "steps": 1, "window_steps": 1, "batch_size": 3, "parts": 3, "target_modules": ("o_proj", "down_proj")},
     {"sizes": EVEN, "layers": 2, "steps": 3, "window_steps": 2, "parts": 2, "kind": "adamw", "max_grad_norm": "1", "publish_loss": False,
      "target_modules": ("up_proj",)}],
)
def test_roles_of_a_graph_are_those_of_its_task(arguments: dict[str, object]) -> None:
    """Every commitment that a relation reads or writes is in the statement, with these tensors and shapes, and no other."""
    manifest = registered(**arguments)
    for task in task_list(manifest):
        graph = task.graph(manifest)
        used = {
            (op.commitment, op.tensor_name): t.shape
            for t, op in zip(graph.tensors, graph.ops) if isinstance(op, Input | Committed) and op.commitment != WITNESS
        }
        layouts = {role: commitment_layout(manifest, name) for role, name in task.commitments}
        assert {role for role, _ in used} == set(layouts) and len(layouts) == len(task.commitments)
        for (role, name), shape in used.items():
            assert layouts[role].by_name[name].tensor.shape == shape
        names = [t for t, _ in TaskShape(graph, GOLDILOCKS).witness_tensors()]
        assert len(names) == len(set(names))
        outputs = {op.commitment for op in graph.ops if isinstance(op, Committed)}
        written = {role: {n for (r, n) in used if r == role} for role in outputs}
        for role, found in written.items():
            assert role not in layouts or found == set(layouts[role].by_name)  # outputs are complete


@pytest.mark.parametrize(("clips", "parts"), [(False, 1), (True, 1), (False, 2), (True, 2)])
def test_every_commitment_has_one_writer_and_its_readers(manifest: RunManifest, clips: bool, parts: int) -> None:
    if clips:
        manifest = registered(sizes=EVEN, layers=2, steps=5, window_steps=2, kind="adamw", max_grad_norm="1")
    manifest = replace(manifest, parts=parts)
    writers: dict[str, list[str]] = {}
    readers: dict[str, list[str]] = {}
    for task in task_list(manifest):
        outputs = {op.commitment for op in task.graph(manifest).ops if isinstance(op, Committed)}
        for role, name in task.commitments:
            table = writers if role in outputs else readers
            table.setdefault(str(name), []).append(str(task))
    known = set()
    for name, tasks in writers.items():
        assert len(tasks) == 1, name
        known.add(name)
    for name, tasks in readers.items():
        if "@" in name:
            assert name in known, f"{name} is read by {tasks} and written by nobody"
        else:
            assert any(task.startswith("range(") for task in tasks), f"{name} is never range-checked"
    for name in known:
        final = name.startswith(("delivered", "state")) and name.endswith("@3")
        assert final or len(readers[name]) >= 1, f"{name} is written and never read"
    updates = "layer" if parts == 1 else "update"
    assert writers["state/1@2"] == [f"{updates}(1, 1)"] and readers["state/1@2"] == [f"{updates}(2, 1)"]
    for part, text in ((0, ""),) if parts == 1 else ((1, " part 1"), (2, " part 2")):
        x, dx = (f"x/1/{part}@0", f"dx/1/{part}@1") if part else ("x/1@0", "dx/1@1")
        assert writers[x] == [f"layer(0, 0){text}"] and readers[x] == [f"layer(0, 1){text}"]
        assert writers[dx] == [f"layer(1, 1){text}"] and readers[dx] == [f"layer(1, 0){text}"]
        assert writers[dx.replace("/1", "/2", 1)] == [f"head(1){text}"]
        if part:
            assert writers[f"gradient/1/{part}@2"] == [f"layer(2, 1){text}"] and readers[f"gradient/1/{part}@2"] == ["update(2, 1)"]
    if parts > 1:
        assert writers["adapter/0@1"] == ["update(1, 0)"] and readers["adapter/0@1"] == ["layer(1, 0) part 1", "layer(1, 0) part 2"]
        assert writers["loss/1@2"] == ["head(2) part 1"] and readers["loss/1@2"] == ["head(2) part 2"] and "loss/2@2" not in writers
    if clips:
        assert writers["norm/1@2"] == [f"{updates}(2, 1)"] and readers["norm/1@2"] == ["clip(2)"]
        assert writers["clip@0"] == ["clip(0)"] and readers["clip@0"] == [f"{updates}(0, 0)", f"{updates}(0, 1)"]


TASKS = """
range(base/0): base base/0
range(base/1): base base/1
range(dataset): dataset dataset
range(embedding): embedding embedding
range(head): head head, embedding embedding
embed(0): dataset dataset, embedding embedding, x_out x/0@0
layer(0, 0): base base/0, x_in x/0@0, dx_in dx/1@0, x_out x/1@0, norm norm/0@0, clip clip@0, state_out state/0@1
layer(0, 1): base base/1, x_in x/1@0, dx_in dx/2@0, x_out x/2@0, dx_out dx/1@0, norm norm/1@0, clip clip@0, state_out state/1@1
clip(0): norm0 norm/0@0, norm1 norm/1@0, clip clip@0
head(0): dataset dataset, head head, x_in x/2@0, dx_out dx/2@0
rotate(base/0@1): old base/0, new base/0@1
rotate(base/1@1): old base/1, new base/1@1
rotate(dataset@1): old dataset, new dataset@1
rotate(embedding@1): old embedding, new embedding@1
rotate(head@1): old head, new head@1
embed(1): dataset dataset@1, embedding embedding@1, x_out x/0@1
layer(1, 0): base base/0@1, state_in state/0@1, x_in x/0@1, dx_in dx/1@1, x_out x/1@1, norm norm/0@1, clip clip@1, state_out state/0@2
layer(1, 1): base base/1@1, state_in state/1@1, x_in x/1@1, dx_in dx/2@1, x_out x/2@1, dx_out dx/1@1, norm norm/1@1, clip clip@1, \
state_out state/1@2
clip(1): norm0 norm/0@1, norm1 norm/1@1, clip clip@1
head(1): dataset dataset@1, head head@1, x_in x/2@1, dx_out dx/2@1
rotate(base/0@2): old base/0@1, new base/0@2
rotate(base/1@2): old base/1@1, new base/1@2
rotate(dataset@2): old dataset@1, new dataset@2
rotate(embedding@2): old embedding@1, new embedding@2
rotate(head@2): old head@1, new head@2
embed(2): dataset dataset@2, embedding embedding@2, x_out x/0@2
layer(2, 0): base base/0@2, state_in state/0@2, x_in x/0@2, dx_in dx/1@2, x_out x/1@2, norm norm/0@2, clip clip@2, state_out state/0@3, \
delivered delivered/0@3
layer(2, 1): base base/1@2, state_in state/1@2, x_in x/1@2, dx_in dx/2@2, x_out x/2@2, dx_out dx/1@2, norm norm/1@2, clip clip@2, \
state_out state/1@3, delivered delivered/1@3
clip(2): norm0 norm/0@2, norm1 norm/1@2, clip clip@2
head(2): dataset dataset@2, head head@2, x_in x/2@2, dx_out dx/2@2
"""


def test_the_tasks_of_a_run_one_by_one(manifest: RunManifest) -> None:
    """Two tied layers, three windows, clipped, every private commitment copied in each window; roles are in this order."""
    model, optimizer = replace(manifest.model, tied=1), replace(manifest.optimizer, max_grad_norm="1")
    run = replace(manifest, rotation_windows=1, model=model, optimizer=optimizer)
    tasks = task_list(run)
    lines = [f"{task}: " + ", ".join(f"{role} {name}" for role, name in task.commitments) for task in tasks]
    assert lines == TASKS.replace("\\\n", "").split("\n")[1:-1]
    assert opening_counts(run) == UNUSED | {
        "base": 3, "clip": 3, "dataset": 4, "delivered": 1, "dx": 2, "embedding": 4, "head": 3, "norm": 2, "state": 2, "x": 2,
    }
    parts = {str(task): task.part for task in tasks if task.part}
    assert parts == {f"{kind}({name}{at})": part for part, name in ((1, "base/1"), (2, "dataset"), (3, "embedding"), (4, "head"))
                     for kind, at in (("range", ""), ("rotate", "@1"), ("rotate", "@2"))}
    assert [(task.window, task.layer, task.subject) for task in tasks[3:8]] == [
        (-1, -1, "embedding"), (-1, -1, "head"), (0, -1, 0), (0, 0, 0), (0, 1, 1),
    ]


PARTS = """
embed(0) part 1: dataset dataset, embedding embedding, x_out x/0/1@0
embed(0) part 2: dataset dataset, embedding embedding, x_out x/0/2@0
embed(0) part 3: dataset dataset, embedding embedding, x_out x/0/3@0
layer(0, 0) part 1: base base/0, adapter adapter/0@0, x_in x/0/1@0, dx_in dx/1/1@0, x_out x/1/1@0, gradient gradient/0/1@0
layer(0, 0) part 2: base base/0, adapter adapter/0@0, x_in x/0/2@0, dx_in dx/1/2@0, x_out x/1/2@0, gradient gradient/0/2@0
layer(0, 0) part 3: base base/0, adapter adapter/0@0, x_in x/0/3@0, dx_in dx/1/3@0, x_out x/1/3@0, gradient gradient/0/3@0
update(0, 0): gradient1 gradient/0/1@0, gradient2 gradient/0/2@0, gradient3 gradient/0/3@0, adapter adapter/0@0, norm norm/0@0, \
clip clip@0, state_out state/0@1
layer(0, 1) part 1: base base/1, adapter adapter/1@0, x_in x/1/1@0, dx_in dx/2/1@0, x_out x/2/1@0, dx_out dx/1/1@0, gradient gradient/1/1@0
layer(0, 1) part 2: base base/1, adapter adapter/1@0, x_in x/1/2@0, dx_in dx/2/2@0, x_out x/2/2@0, dx_out dx/1/2@0, gradient gradient/1/2@0
layer(0, 1) part 3: base base/1, adapter adapter/1@0, x_in x/1/3@0, dx_in dx/2/3@0, x_out x/2/3@0, dx_out dx/1/3@0, gradient gradient/1/3@0
update(0, 1): gradient1 gradient/1/1@0, gradient2 gradient/1/2@0, gradient3 gradient/1/3@0, adapter adapter/1@0, norm norm/1@0, \
clip clip@0, state_out state/1@1
clip(0): norm0 norm/0@0, norm1 norm/1@0, clip clip@0
head(0) part 1: dataset dataset, head head, x_in x/2/1@0, dx_out dx/2/1@0, loss loss/1@0
head(0) part 2: dataset dataset, head head, x_in x/2/2@0, dx_out dx/2/2@0, loss loss/2@0
head(0) part 3: dataset dataset, head head, x_in x/2/3@0, dx_out dx/2/3@0, loss1 loss/1@0, loss2 loss/2@0
"""
UNUSED = {"adapter": 1, "gradient": 1, "loss": 1}  # of a run whose steps are proved in one piece


def test_the_tasks_of_a_run_in_parts_one_by_one(manifest: RunManifest) -> None:
    run = replace(manifest, batch_size=3, parts=3, optimizer=replace(manifest.optimizer, max_grad_norm="1"))
    tasks = task_list(run)
    lines = [f"{task}: " + ", ".join(f"{role} {name}" for role, name in task.commitments) for task in tasks]
    assert [line for line, task in zip(lines, tasks, strict=True) if task.window == 0] == PARTS.replace("\\\n", "").split("\n")[1:-1]
    assert len(set(lines)) == len(lines) == 5 + 3 * 15
    later = {str(t): dict(t.commitments) for t in tasks if t.kind == "update" and t.layer == 1}
    assert [str(c["state_in"]) for c in later.values() if "state_in" in c] == ["state/1@1", "state/1@2"]
    assert [str(c.get("delivered")) for c in later.values()] == ["None", "None", "delivered/1@3"]
    assert opening_counts(run) == {
        "adapter": 4, "base": 10, "clip": 3, "dataset": 19, "delivered": 1, "dx": 2, "embedding": 10, "gradient": 2, "head": 10, "loss": 2,
        "norm": 2, "state": 2, "x": 2,
    }
    assert {name.layer for _, name in tasks[-1].commitments if name.kind == "loss"} == {-1}
    assert Name("gradient/1/3", 0).layer == Name("x/1/2", 0).layer == Name("adapter/1", 0).layer == 1 and Name("x/10/2", 0).layer == 10


def test_which_copy_a_window_opens(manifest: RunManifest) -> None:
    """The last one made; a public base is never copied, nor is anything in a run that does not rotate."""
    expected = {
        0: ["head"] * 6, 1: ["head", "head@1", "head@2", "head@3", "head@4", "head@5"],
        2: ["head", "head", "head@2", "head@2", "head@4", "head@4"],
    }
    assert standing(manifest, "head", 0) == Name("head", -1)
    for every, names in expected.items():
        private = replace(manifest, rotation_windows=every)
        assert [str(standing(private, "head", w)) for w in range(6)] == names
        public = replace(private, base_visibility="public")
        open_names = {"head", "embedding", "base/1"}
        assert {str(standing(public, name, w)) for name in open_names for w in range(6)} == open_names
        assert [str(standing(public, "dataset", w)) for w in range(6)] == [name.replace("head", "dataset") for name in names]


def test_windows_cover_every_step_once(manifest: RunManifest) -> None:
    steps = [k for w in manifest.windows() for k in range(w.first, w.stop)]
    assert steps == list(range(manifest.steps))
    assert sorted({t.window for t in task_list(manifest)}) == [-1, 0, 1, 2]


@pytest.mark.parametrize(("parts", "rotation"), [(1, 0), (1, 1), (2, 0), (2, 1)])
def test_statement_ids_are_distinct_and_bind_the_manifest(manifest: RunManifest, parts: int, rotation: int) -> None:
    manifest = replace(manifest, parts=parts, rotation_windows=rotation)
    tasks = task_list(manifest)
    ids = {statement_id(manifest, t) for t in tasks}
    assert len(ids) == len(tasks)
    other = replace(manifest, seed=manifest.seed + 1)
    assert not ids & {statement_id(other, t) for t in tasks}


def test_content_binds_every_field(manifest: RunManifest) -> None:
    task = next(t for t in task_list(manifest) if t.kind == "head")
    ids = {str(name): "0" * 64 for _, name in task.commitments}
    published = {"loss": np.array([5, 6])}
    base = statement_content(manifest, task, "d" * 64, ids, published)
    others = [
        statement_content(replace(manifest, seed=99), task, "d" * 64, ids, published),
        statement_content(replace(manifest, profile="goldilocks-2^13"), task, "d" * 64, ids, published),
        statement_content(manifest, replace(task, window=1), "d" * 64, ids, published),
        statement_content(manifest, replace(task, layer=0), "d" * 64, ids, published),
        statement_content(manifest, replace(task, part=1), "d" * 64, ids, published),
        statement_content(manifest, replace(task, kind="embed"), "d" * 64, ids, published),
        statement_content(manifest, replace(task, commitments=task.commitments[::-1]), "d" * 64, ids, published),
        statement_content(manifest, task, "e" * 64, ids, published),
        statement_content(manifest, task, "d" * 64, ids | {"dataset": "1" * 64}, published),
        statement_content(manifest, task, "d" * 64, ids, {"loss": np.array([6, 5])}),
        statement_content(manifest, task, "d" * 64, ids, {}),
    ]
    assert len({base, *others}) == 12
    assert json.loads(base) == {
        "version": 1, "manifest": manifest.digest(), "profile": "goldilocks-2^12", "kind": "head", "window": 0, "layer": -1, "part": 0,
        "relation": "d" * 64, "commitments": [["dataset", "dataset", "0" * 64], ["head", "head", "0" * 64],
                                              ["x_in", "x/2@0", "0" * 64], ["dx_out", "dx/2@0", "0" * 64]],
        "published": {"loss": [5, 6]},
    }


def test_opening_counts_are_what_the_tasks_open(manifest: RunManifest) -> None:
    counts: dict[str, int] = {}
    for task in task_list(manifest):
        for _, name in task.commitments:
            counts[str(name)] = counts.get(str(name), 0) + 1
    for text, count in counts.items():
        kind = text.split("/")[0].split("@")[0]
        assert count <= manifest.budgets[kind]
    assert manifest.budgets["base"] == 4 and manifest.budgets["dataset"] == 7 and manifest.budgets["x"] == 2
    assert sorted(manifest.budgets) == sorted(BUDGETS)
    assert opening_counts(manifest) == UNUSED | {
        "base": 4, "clip": 1, "dataset": 7, "delivered": 1, "dx": 2, "embedding": 4, "head": 4, "norm": 1, "state": 2, "x": 2,
    }


@pytest.mark.parametrize("budget", [0, -1, 13, 10**9])
def test_impossible_budgets(manifest: RunManifest, budget: int) -> None:
    """Once a ValueError that escaped from the verifier."""
    assert profile(manifest.profile).max_openings == 12
    other = replace(manifest, budgets=manifest.budgets | {"x": budget})
    with pytest.raises(VerificationError) as caught:
        commitment_layout(other, Name("x/0", 0))
    assert (caught.value.reason, caught.value.where) == ("manifest", "budgets.x")
    for possible in (1, 12):
        layout = commitment_layout(replace(manifest, budgets=manifest.budgets | {"x": possible}), Name("x/0", 0))
        assert layout.code.blinding == possible * profile(manifest.profile).queries


def test_budgets_of_the_manifest_are_complete(manifest: RunManifest) -> None:
    params = profile(manifest.profile)
    assert max_blinding(manifest, params) == params.queries * 7
    for budgets in ({}, {k: v for k, v in manifest.budgets.items() if k != "x"}, manifest.budgets | {"y": 1}, manifest.budgets | {"dx": 0}):
        with pytest.raises(VerificationError):
            max_blinding(replace(manifest, budgets=budgets), params)


def test_a_dataset_s_id_covers_its_tokenizer(manifest: RunManifest) -> None:
    run = replace(manifest, tokenizer_digest="7" * 64)
    labels = {name: commitment_layout(run, Name(name)).label for name in ("dataset", "embedding", "head", "base/0")}
    assert labels == {"dataset": "7" * 64, "embedding": "", "head": "", "base/0": ""}


def test_public_base_is_not_blinded(manifest: RunManifest) -> None:
    public = replace(manifest, base_visibility="public")
    for name in ("base/0", "embedding", "head"):
        assert commitment_layout(public, Name(name)).code.blinding == 0
        assert commitment_layout(manifest, Name(name)).code.blinding > 0
    assert commitment_layout(public, Name("dataset")).code.blinding > 0
    assert commitment_layout(public, Name("state/0", 1)).code.blinding > 0
