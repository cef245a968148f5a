"""The planner counts what the prover does: cells, claims and bytes of real proofs, and refuses nothing that it has not tried."""

import itertools
import json
import mmap
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu import main as bench_gpu
from protocol.field import Ext, Field
from protocol.layout import CommitmentLayout
from protocol.manifest import StepRange
from protocol.params import PROFILES, Params, profile
from protocol.relation.graph import Input
from protocol.schedule.products import Instance
from protocol.schedule.task import TaskShape
from prover.argument.batch import ProductBatchProver
from prover.backend import select
from prover.backend.base import Backend
from prover.backend.memory import give_back
from prover.commitment.commit import commit
from prover.cost.bound import bound
from prover.cost.claims import record_claims, union
from prover.cost.evaluation import evaluation_work, graphs_built
from prover.cost.forecast import PARTS, Counted, forecast
from prover.cost.machine import memory_bytes, peak_bytes, reset_peak, resident_bytes
from prover.cost.phases import timed_proof
from prover.cost.rates import DEEP, FREE, LARGE, Sample, fit, measure, sample, sample_memory
from prover.cost.tally import CALL, Algebra, TallyField
from prover.cost.work import EVERYTHING, Memory, Place, Work, commitment_work, padded_cells, task_memory
from prover.executor.torch_ops import TorchOps
from prover.witness.task import kept_values, read_by_proof, stepwise, task_values
from tests.support.device import device as a_device
from tests.support.stage import Case, Stage, seed
from tests.toy import toy

PARAMS = profile("goldilocks-2^10")


class CountingBackend:
    """A backend that notes how many cells its calls were given."""

    def __init__(self) -> None:
        self.inner, self.seen = select("cpu"), Counter[str]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def encode(self, code: Any, messages: Any, rho: Any, out: Any = None) -> Any:
        if code.ell == PARAMS.ell:  # tail pads have shorter rows
            self.seen["encoded"] += messages.size
        return self.inner.encode(code, messages, rho, out)

    def columns(self, code: Any, messages: Any, rho: Any, positions: Any) -> Any:
        self.seen["again"] += messages.size
        return self.inner.columns(code, messages, rho, positions)

    def hash_rows(self, states: Any, rows: Any, salts: Any, before: int, last: bool) -> Any:
        if last:
            self.seen["hashed"] += rows.shape[1] * (1 + -(-(8 * (before + len(rows)) + 9) // 64))
        return self.inner.hash_rows(states, rows, salts, before, last)

    def merkle_levels(self, leaves: Any) -> Any:
        levels = self.inner.merkle_levels(leaves)
        self.seen["hashed"] += 2 * sum(len(level) for level in levels[1:])
        return levels

    def count(self, arrays: Any, first: int, counts: Any) -> None:
        self.seen["counted"] += sum(x.size for x in arrays)
        self.inner.count(arrays, first, counts)


@pytest.fixture(scope="module")
def case() -> Case:
    return Stage(toy(layers=1, steps=1, window_steps=1)).case("layer", 0, 0)


def layouts(case: Case, params: Params) -> list[CommitmentLayout]:
    named = [case.stage.layout(name) for _, name in case.task.commitments]
    return [CommitmentLayout.pack([(s.name, s.tensor.shape) for s in x.slots], params.code(2)) for x in named]


def test_claims_are_those_of_a_proof(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Instance] = []
    plain = ProductBatchProver.claim

    def noted(self: ProductBatchProver, instance: Instance) -> Any:
        made.append(instance)
        return plain(self, instance)

    monkeypatch.setattr(ProductBatchProver, "claim", noted)
    backend, found = CountingBackend(), layouts(case, PARAMS)
    arrays = [case.stage.arrays[str(name)] for _, name in case.task.commitments]
    inputs = [(role, commit(backend, x, a, seed(role))) for (role, _), x, a in zip(case.task.commitments, found, arrays)]
    before = Counter(backend.seen)
    assert before["encoded"] == sum(commitment_work(x).encoded for x in found)
    assert before["hashed"] == sum(commitment_work(x).hashed - 2 for x in found)  # a tree has one node fewer than leaves
    shape = TaskShape(case.graph, case.field)
    published = {item.name: case.values[item.tensor.index] for item in case.graph.published}
    proof, seconds = timed_proof(backend, shape, b"toy", inputs, case.values, published, PARAMS, seed("proof"))  # type: ignore[arg-type]
    assert set(seconds) == {"witness", "tree", "claims", "products", "opening", "schedule"} and len(proof) > 100_000

    counted = Counted.of(lambda: case.graph, case.field)
    assert [(i.tensor.index, i.shared) for i in counted.claims.instances] == [(i.tensor.index, i.shared) for i in made]
    assert counted.shape.counts == shape.counts
    told = forecast(counted, PARAMS, found)
    work = told.parts["prove"]
    assert backend.seen["encoded"] - before["encoded"] == work.encoded + 2 * PARAMS.ell  # and the mask R1
    assert backend.seen["hashed"] - before["hashed"] == work.hashed - 2
    assert backend.seen["counted"] == work.counted == told.lookups
    assert work.leaves == sum(plan.fractions for plan in shape.plans) and work.opened == sum(1 << x.variables for x in (
        *found, shape.witness_layout(PARAMS)))
    assert (told.valid, told.padded) == padded_cells(shape.witness_layout(PARAMS)) and told.padded % PARAMS.ell == 0
    assert set(told.parts) == set(PARTS) and told.parts["inputs"].encoded == before["encoded"]


def test_codewords_that_are_not_kept_are_encoded_again(case: Case) -> None:
    """All of them, those larger than what may be kept, none."""
    counted, found = Counted.of(lambda: case.graph, case.field), layouts(case, PARAMS)
    arrays, published = [case.stage.arrays[str(name)] for _, name in case.task.commitments], case.published()
    for kept in (0, 8 * PARAMS.n * 20, 1 << 40):
        backend = CountingBackend()
        backend.inner.kept_bytes = kept  # type: ignore[misc]
        inputs = [(role, commit(backend, x, a, seed(role))) for (role, _), x, a in zip(case.task.commitments, found, arrays)]
        timed_proof(backend, counted.shape, b"toy", inputs, case.values, published, PARAMS, seed("proof"))  # type: ignore[arg-type]
        assert backend.seen["again"] == forecast(counted, PARAMS, found, Place(kept)).parts["prove"].again
        assert bool(backend.seen["again"]) == (kept < 1 << 40)


def test_weights_are_made_twice_where_they_are_not_kept(case: Case) -> None:
    counted, found = Counted.of(lambda: case.graph, case.field), layouts(case, PARAMS)
    largest = max(x.variables for x in (*found, counted.shape.witness_layout(PARAMS)))
    told = forecast(counted, PARAMS, found)
    for size, low, high in ((16 << largest, 1, 1), ((16 << largest) - 1, 1.5, 1.99), (1, 2, 2)):
        less = forecast(counted, PARAMS, found, Place(8 * size))
        assert low <= less.parts["prove"].weighted / told.parts["prove"].weighted <= high
        most = min(size * (len(found) + 1), told.memory.phases["opening"]["opening weights"])
        assert less.memory.phases["opening"]["opening weights"] <= most


def test_cells_of_spans_that_overlap_count_once() -> None:
    assert union([(5, 9), (0, 3), (2, 4), (6, 7), (9, 10)]) == 9 and union([(3, 4)]) == 1 and union([]) == 0


def test_every_claimed_tensor_is_committed(case: Case) -> None:
    claims = record_claims(TaskShape(case.graph, case.field))
    names = {(role, name) for role, _ in case.task.commitments for name in case.stage.arrays[str(dict(case.task.commitments)[role])]}
    names |= {("witness", name) for name, _ in TaskShape(case.graph, case.field).witness_tensors()}
    assert set(claims.slots) <= names and min(map(min, claims.slots.values())) >= 1


def test_memory_is_the_sum_of_what_is_alive(case: Case) -> None:
    counted, found = Counted.of(lambda: case.graph, case.field), layouts(case, PARAMS)
    held, streamed, device = (task_memory(counted.shape, counted.claims, PARAMS, found, place) for place in (
        EVERYTHING, Place(0), Place(device=True)))
    assert held.peak == sum(held.phases[held.peak_phase].values()) == max(sum(terms.values()) for terms in held.phases.values())
    every = [*found, counted.shape.witness_layout(PARAMS)]
    codewords = sum(len(x.rows) for x in every) + 6
    assert held.phases["opening"]["codewords"] == 8 * PARAMS.n * codewords and streamed.phases["opening"]["codewords"] == 0
    inputs = sum(t.cells for t, op in zip(case.graph.tensors, case.graph.ops) if isinstance(op, Input))
    kept = kept_values(select("cpu"), case.graph, case.values)
    there = [kept[t.index].nbytes for t in read_by_proof(case.graph) if not isinstance(case.graph.ops[t.index], Input)]
    assert held.phases["tree"]["integer values"] == sum(there)
    narrow = kept_values(a_device(), case.graph, case.values)  # a device holds inputs for itself, in the smallest integers too
    all_there = sum(narrow[t.index].nbytes for t in read_by_proof(case.graph))
    assert device.phases["tree"]["integer values"] == all_there and "input tensors" not in device.phases["tree"]
    assert sum(there) < all_there < sum(there) + 8 * inputs
    assert held.phases["opening"]["input tensors"] == 8 * inputs and "integer values" not in held.phases["opening"]
    beside = 96 * PARAMS.n * len(every)  # salts and Merkle trees, which a device leaves to its host
    assert held.phases["opening"]["salts and levels"] == beside
    differences = {
        phase: sum(held.phases[phase].values()) - sum(terms.values()) for phase, terms in device.phases.items() if phase != "tree"}
    rest = [m.phases["tree"].copy() for m in (held, device)]
    assert all(m.pop("leaves") and m.pop("levels") for m in rest) and rest[0].pop("later tables in its padding") >= 0
    assert rest[0].pop("salts and levels") == beside
    more = rest[0].pop("input tensors") + rest[0].pop("integer values") - rest[1].pop("integer values")
    looked_up = sum(8 * len(x.columns) * x.columns[0].cells for x in case.graph.lookups)
    assert 0 <= rest[1].pop("columns in order") <= rest[0].pop("columns in order") <= looked_up
    assert rest[0] == rest[1] and more == 8 * inputs + sum(there) - all_there
    assert differences == dict.fromkeys(("commit", "products"), beside + more) | {
        "evaluate": 96 * PARAMS.n * len(found), "opening": beside + 8 * inputs}
    assert Place.of("cuda", 800) == Place(100, True) and Place.of("cpu", 800) == Place(100, False)
    (tree,) = counted.shape.plans
    assert device.phases["tree"]["leaves"] == device.phases["tree"]["levels"] == 32 << tree.variables
    written, half = held.phases["tree"], 1 << tree.variables - 1
    assert written["leaves"] == 16 * tree.fractions and written["levels"] == 32 * (min(half, tree.fractions) + half)
    later = sum((held.phases["products"] | held.phases["opening"])[x] for x in ("product tables", "opening tables", "opening weights"))
    assert written["later tables in its padding"] == min((64 << tree.variables) - written["leaves"] - written["levels"], later)
    largest = max(8 * PARAMS.n * len(x.rows) for x in found)
    some = task_memory(counted.shape, counted.claims, PARAMS, found, Place(largest)).phases["evaluate"]["codewords"]
    fewer = task_memory(counted.shape, counted.claims, PARAMS, found, Place(largest - 1)).phases["evaluate"]["codewords"]
    assert some == 8 * PARAMS.n * sum(len(x.rows) for x in found) and (some - fewer) % largest == 0 and fewer < some
    cells = sum(1 << x.variables for x in every)
    assert held.phases["opening"]["opening tables"] == 8 * cells and held.phases["opening"]["opening weights"] == 16 * cells
    assert Memory({"a": {"x": 3}, "b": {"y": 2, "z": 2}}).peak_phase == "b"


def test_rates_are_measured_and_add_up() -> None:
    rates = measure(select("cpu"), PARAMS)
    assert set(rates.unit) == set(vars(Work())) and all(value > 0 for value in rates.unit.values()) and rates.backend == "cpu"
    assert rates.total(Work(leaves=2.0) + Work(leaves=1.0, host=1.0)) == pytest.approx(3 * rates.unit["leaves"] + 1)
    assert rates.total(Work(leaves=2.0, host=1.0).times(3)) == pytest.approx(6 * rates.unit["leaves"] + 3)


WORKS = [Work(leaves=1e3, tree_rounds=100.0, blocks=9.0), Work(leaves=1e4, tree_rounds=150.0, blocks=150.0),
         Work(leaves=1e6, tree_rounds=200.0, blocks=12.0)]


def spent(leaf: float, tree_round: float, block: float) -> list[float]:
    return [leaf * w.leaves + tree_round * w.tree_rounds + block * w.blocks for w in WORKS]


def test_rates_are_found_again() -> None:
    seconds = spent(4e-8, 9e-5, 6e-5)
    found = fit(WORKS, seconds, ["leaves", "tree_rounds", "blocks"], {})
    assert list(found.values()) == pytest.approx([4e-8, 9e-5, 6e-5])
    assert fit(WORKS, seconds, ["leaves", "blocks"], {"tree_rounds": 9e-5}) == pytest.approx({"leaves": 4e-8, "blocks": 6e-5})


def test_noise_makes_no_rate_nothing() -> None:
    """The plain least squares of these seconds have a negative rate; with bounds every rate stays above nothing, below what one task
    allows, and the largest task is still explained."""
    noisy = spent(4e-8, 9e-5, 6e-5)
    noisy[1] = noisy[0] * 0.8  # the task with many blocks, as if it had cost less than the small one
    names = ["leaves", "tree_rounds", "blocks"]
    counts = np.array([[getattr(w, name) for name in names] for w in WORKS])
    assert (np.linalg.solve(counts, noisy) < 0).any()
    found = fit(WORKS, noisy, names, {})
    most = {name: min(s / getattr(w, name) for s, w in zip(noisy, WORKS)) for name in names}
    assert all(FREE * most[name] * 0.999 <= found[name] <= 1.5 * most[name] for name in names)
    assert sum(found[name] * getattr(WORKS[2], name) for name in names) == pytest.approx(noisy[2], rel=0.2)
    assert all(value > 0 for value in fit(WORKS, noisy, names, {"host": 1.0, "leaves": 1.0}).values())  # known rates that take it all


def test_algebra_is_that_of_the_schedule(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """A blank run notes the operations that a run with real arithmetic does: on arrays of the same sizes, and nearly all on scalars."""
    tally = TallyField(case.field)
    blank = TaskShape(case.graph, tally).counts
    real, noted, inside = NotingField(case.field), [0.0, 0.0, 0.0], []

    def outermost(plain: Any, note: Callable[[Any, Any], None]) -> Any:
        def call(self: Any, *arguments: Any) -> Any:
            inside.append(self)
            try:
                out = plain(self, *arguments)
            finally:
                inside.pop()
            if not inside:
                note(out, arguments)
            return out

        return call

    def array(products: Callable[[Any, Any], float]) -> Callable[[Any, Any], None]:
        def note(out: Any, arguments: Any) -> None:
            noted[1] += 1
            noted[2] += products(out, arguments)

        return note

    def scalar(out: Any, arguments: Any) -> None:
        noted[0] += 1

    for name in ("add", "radd", "sub", "rsub", "mul", "rmul", "neg", "truediv", "rtruediv", "pow"):
        monkeypatch.setattr(Ext, f"__{name}__", outermost(vars(Ext)[f"__{name}__"], scalar))
    monkeypatch.setattr(Ext, "inverse", outermost(Ext.inverse, scalar))
    for name, products in {
        "embed": lambda out, given: 0.3 * out.size, "add": lambda out, given: 0.3 * out.size, "sub": lambda out, given: 0.3 * out.size,
        "mul": lambda out, given: out.size, "sum": lambda out, given: 0.3 * given[0].size, "kmul": lambda out, given: 5 * out.size / 2,
        "kmulf": lambda out, given: out.size, "kscale": lambda out, given: 5 * out.size / 2,
        "eq_table": lambda out, given: 5 * out.size / 2, "integer_dot": lambda out, given: 0,
    }.items():
        monkeypatch.setattr(NotingField, name, outermost(getattr(Field, name), array(products)), raising=False)
    assert TaskShape(case.graph, real).counts == blank
    assert tally.algebra == Algebra(tally.algebra.scalars, noted[1], pytest.approx(noted[2])) and min(noted) > 0
    assert 0.85 * noted[0] < tally.algebra.scalars <= noted[0]  # sums of arrays that meet each other are beyond its notice
    monkeypatch.undo()
    shape = TaskShape(case.graph, case.field)
    claims = record_claims(shape).algebra  # with the opening's inner products and public tensors
    assert shape.counts == blank and noted[0] < claims.scalars < 2 * noted[0] and noted[1] < claims.calls < 1.5 * noted[1]
    assert noted[2] < claims.products and claims.steps == claims.scalars + CALL * claims.calls


class NotingField(Field):
    """The real field, whose methods a test wraps."""

    def __init__(self, of: Field) -> None:
        super().__init__(of.p, of.w, of.generator, of.two_adicity)


def test_an_evaluation_is_counted_as_it_is_done(case: Case) -> None:
    """Multiply-adds of every contraction, once for the committed tensors and once for the others; a graph for each of three builders."""
    class Ops(TorchOps):
        macs = 0

        def product(self, op: Any, a: Any, b: Any, axes: str) -> Any:
            out = super().product(op, a, b, axes)
            gone = [n for x, n in zip(op.a_axes, a.shape) if x not in axes]
            Ops.macs += out.numel() * int(np.prod(gone)) if gone else 0
            return out

    given = {(role, key): array for role, name in case.task.commitments for key, array in case.stage.arrays[str(name)].items()}
    task_values(case.stage.toy.manifest, "layer", StepRange(0, 1), 0, given, Ops())
    work = evaluation_work(case.graph)
    assert work.macs == Ops.macs > 0 and work.operations > 5 * len(case.graph.tensors)
    assert stepwise(case.graph) and graphs_built(case.graph) == 3
    head = case.stage.case("head", 0).graph
    assert not stepwise(head) and graphs_built(head) == 1


def test_a_sample_is_an_honest_task() -> None:
    made = sample(select("cpu"), PARAMS, 8, 2, TorchOps())
    assert len(made.claims.instances) == 2 and len(made.inputs) == 2 and len(made.values) == len(made.shape.graph.tensors)


@pytest.mark.parametrize(("room", "expected"), [(64, [64]), (128, [128]), (LARGE, [LARGE]), (2 * LARGE, [LARGE, 2 * LARGE])])
def test_samples_fit_in_memory(monkeypatch: pytest.MonkeyPatch, room: int, expected: list[int]) -> None:
    """On a device that is never slow enough they grow as far as there is memory, `room` for a sample of that size."""
    backend, sizes = type(select("cpu"))(), list[int]()

    def noted(backend: Backend, params: Params, size: int, depth: int, ops: TorchOps) -> Sample:
        if depth == DEEP:
            sizes.append(size)
        return sample(backend, params, min(size, 64), depth, ops)

    monkeypatch.setattr("prover.cost.rates.sample", noted)
    monkeypatch.setattr("prover.cost.rates.resident_bytes", lambda name: 1 << 30)
    limit = (1 << 30) + sample_memory(select("cpu"), PARAMS, room, DEEP)
    monkeypatch.setattr("prover.backend.host.host_memory", lambda: limit * 10 // 9 + 10)
    ticks = itertools.count()
    measure(backend, PARAMS, lambda: 1e-6 * next(ticks))
    assert sizes == expected


def test_the_bound_counts_each_kind_of_work() -> None:
    params = PROFILES["goldilocks-2^16"]
    least = bound(Work(encoded=1.0, hashed=2.0), params)
    assert (least.bytes, least.products, least.compressions) == (72, 8 + 36, 2)
    assert least.seconds(72, 44, 2) == 2 and least.seconds(1, 1e9, 1e9) == 72
    assert bound(Work(leaves=1.0), params).products == 56 and bound(Work(macs=1.0, schedule=1.0), params).bytes == 0


def test_the_peak_of_a_process_is_measured_anew() -> None:
    reset_peak("cpu")
    low = peak_bytes("cpu")
    held = mmap.mmap(-1, 1 << 27)
    np.frombuffer(held, dtype=np.uint8)[::4096] = 1
    assert peak_bytes("cpu") >= low + len(held) // 2 and 0 < resident_bytes("cpu") <= peak_bytes("cpu") <= memory_bytes("cpu")


def test_bench_gpu_runs_a_whole_step_on_the_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = bench_gpu(["--backend", "cpu", "--shape", "toy", "--layers", "1", "--tokens", "4", "--profile", "goldilocks-2^10",
                       "--folder", str(tmp_path), "--json", str(tmp_path / "found.json")])
    [step] = found["steps"]
    assert [r["task"] for r in step["tasks"]] == ["embed(0)", "layer(0, 0)", "head(0)"] and step["of"] == 3
    assert all(r["proof_bytes"] > 0 and r["seconds"]["verify"] > 0 and r["share"] > 0 for r in step["tasks"])
    assert json.loads((tmp_path / "found.json").read_text())["steps"][0]["lookups"] == step["lookups"] > 0
    again = bench_gpu(["--backend", "cpu", "--shape", "toy", "--layers", "1", "--tokens", "4", "--profile", "goldilocks-2^10",
                       "--folder", str(tmp_path), "--limit", "0"])  # the same weights, and no time for any task
    assert again["steps"][0]["tasks"] == [] and "stopped by --limit after 0 of 3" in capsys.readouterr().out


def test_bench_gpu_needs_no_services() -> None:
    missing = ("prefect", "sqlalchemy", "alembic", "boto3", "botocore", "fastapi", "typer", "pydantic", "storage", "tasks", "flows")
    program = f"import sys\nfor name in {missing}: sys.modules[name] = None\nimport benchmarks.gpu"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["prover.cost.rates", "prover.files.hf_model", "prover.executor.torch_ops", "benchmarks.shapes"])
def test_threads_wait_passively_whoever_imports_torch_first(module: str) -> None:
    """Idle threads that spin took an evaluation five times its processor time on a busy machine; OpenMP reads this once, when it loads."""
    program = f"""import os, sys
class Torch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            sys.exit(0 if os.environ.get("OMP_WAIT_POLICY") == "passive" else 3)
sys.meta_path.insert(0, Torch())
import {module}
sys.exit(4)"""
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False, env=environment)
    assert done.returncode == 0, done.stderr


def test_a_heap_gives_back_what_it_holds_free() -> None:
    held = [np.ones(1 << 12) for _ in range(1 << 12)]  # small enough to be the heap's
    kept, used = held[-1], resident_bytes("cpu")
    held.clear()
    give_back()
    assert resident_bytes("cpu") < used - (1 << 26) and kept.sum() == 1 << 12
