"""Planning: the same request is the same run, budgets fit or are refused, a public base has ids that anyone recomputes."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from protocol.encoding import canonical_json
from protocol.field import GOLDILOCKS
from protocol.manifest import Lora
from protocol.model_config import PROJECTIONS
from protocol.optimizer import Optimizer
from protocol.params import PROFILES
from protocol.schedule.task import TaskShape
from protocol.statement import Name, opening_counts, task_list
from prover.backend.memory import SHARES
from prover.backend.reference import ReferenceBackend
from prover.commitment.commit import commit
from prover.cost.claims import record_claims
from prover.cost.forecast import forecast
from prover.executor.calibrate import Calibration
from prover.executor.prepare import Prepared
from prover.files.dataset import load_dataset
from prover.files.dataset_opening import commit_dataset, read_opening, write_opening
from storage.derive import SPARE_OPENINGS, budget_of
from storage.errors import StorageError
from storage.ledger import open_ledger
from storage.object_store import open_object_store
from tasks.budgets import with_budgets, with_rotation
from tasks.context import RunRequest, Stores
from tasks.estimate import Estimate, PlanError, choose, proof_size
from tasks.plan import PUBLIC_SEED, Draft, Room, draft, plan_key, planned, quantisation_loss, start
from tasks.prove import prove_statement
from tasks.record import collect
from tasks.train import train_window
from tasks.verify import judge
from tests.prover.files.conftest import Folder
from tests.tasks.toy_run import stores, toy_draft, toy_run
from tests.toy import EVEN, toy

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def request_(tmp_path: Path) -> RunRequest:
    folder = tmp_path / "model"
    folder.mkdir()
    Folder(folder).write()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((EXAMPLES / "tiny-llama" / name).read_bytes())
    (tmp_path / "data.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in ("a b", "c", "old pond", "frog")))
    return RunRequest(
        base_model=folder, dataset=tmp_path / "data.jsonl", dataset_opening=None, data_format="auto", packing=False,
        lora=Lora(2, 4, ("q_proj",)), optimizer=Optimizer(kind="sgd", momentum="0.9", learning_rate="0.01"), epochs=1, batch_size=2,
        gradient_accumulation=1, sequence_length=12, seed=3, window_steps=4, max_steps=None, weight_bits=12, weight_scales="tensor",
        headroom=0, base_visibility="private", publish_loss=True, soundness_bits=100,
        spare_openings=SPARE_OPENINGS, parts=0,
    )


@pytest.fixture
def owned(tmp_path: Path, request_: RunRequest) -> RunRequest:
    """The same request on the same lines, committed by their owner with 9 openings under a profile of her choice."""
    found = load_dataset(tmp_path / "data.jsonl", request_.base_model, 12)
    file, _ = write_opening(tmp_path / "owner", commit_dataset(found, "the owner", "goldilocks-2^13", 9))
    return replace(request_, dataset=None, dataset_opening=file)


def test_the_same_request_is_the_same_run(tmp_path: Path, request_: RunRequest) -> None:
    where = stores(tmp_path)
    assert planned(where, plan_key(request_)) is None
    drafted = draft(request_, plan_key(request_))
    assert drafted.manifest.steps == 2 and drafted.manifest.window_steps == 2  # one epoch of four examples
    run = start(where, drafted)
    again = planned(where, plan_key(request_))
    assert again is not None and again.run_id == run.run_id and again.manifest == run.manifest
    other = replace(request_, optimizer=replace(request_.optimizer, learning_rate="0.02"))
    assert planned(where, plan_key(other)) is None
    request_.dataset.write_text(request_.dataset.read_text() + json.dumps({"text": "more"}) + "\n")
    assert planned(where, plan_key(request_)) is None
    row = where.ledger.run(run.run_id)
    assert row.manifest.encode() == run.manifest.to_json()


def test_the_key_does_not_depend_on_the_place(tmp_path: Path, request_: RunRequest) -> None:
    before = plan_key(request_)
    request_.base_model.rename(tmp_path / "elsewhere")
    assert plan_key(replace(request_, base_model=tmp_path / "elsewhere")) == before


def test_of_two_that_plan_at_once_the_first_stands(tmp_path: Path) -> None:
    """Both found no plan and committed under seeds of their own; the second one goes on with the first one's run."""
    where = stores(tmp_path)
    first, second = (start(where, toy_draft()) for _ in range(2))
    assert first.run_id == second.run_id and [row.run_id for row in where.ledger.runs()] == [first.run_id]
    assert second.opened(Name("base/0")).data.root == first.opened(Name("base/0")).data.root


def test_budgets_are_the_openings_needed_and_some_spare() -> None:
    manifest = toy_draft().manifest
    assert {k: n - SPARE_OPENINGS for k, n in manifest.budgets.items()} == opening_counts(manifest)


def test_the_profile_with_the_smallest_proofs_is_chosen() -> None:
    chosen = choose(toy_draft().manifest, 100)
    assert PROFILES[chosen.profile].max_openings >= max(chosen.budgets.values())
    assert chosen.bits >= 100 and chosen.tasks == 10
    assert sum(k["tasks"] for k in chosen.to_json()["kinds"]) == 10
    canonical_json([k.kind for k in chosen.kinds])


@pytest.fixture
def the_same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets of a fixed seed: siblings depend on drawn positions, by which a proof's size varies (a deviation of 0.5 %)."""
    random = np.random.default_rng(1)
    monkeypatch.setattr("secrets.token_bytes", random.bytes)
    monkeypatch.setattr("secrets.token_hex", lambda count: random.bytes(count).hex())


@pytest.mark.usefixtures("the_same_draws")
def test_proof_bytes_are_foretold(tmp_path: Path) -> None:
    run = toy_run(tmp_path)
    for task in task_list(run.manifest)[:2]:
        shape = TaskShape(task.graph(run.manifest), run.params.field)
        foretold = proof_size(run.params, shape, [run.layout(name) for _, name in task.commitments])
        assert abs(prove_statement(run, task).size - foretold) < 0.02 * foretold


def test_more_bits_than_the_field_has_are_refused() -> None:
    with pytest.raises(PlanError, match="soundness_bits: 128"):
        choose(toy_draft().manifest, 128)


def test_a_long_run_is_rotated_as_rarely_as_its_profile_allows() -> None:
    manifest = replace(toy_draft().manifest, steps=300, loss_tokens=(1,) * 300)
    assert with_rotation(toy_draft().manifest, 9) == toy_draft().manifest  # two windows need none
    for limit in (9, 30, 76):
        found = with_rotation(manifest, limit)
        assert found and found.rotation_windows > 0 and max(found.budgets.values()) <= limit
        rarer = with_budgets(replace(manifest, rotation_windows=found.rotation_windows + 1))
        assert max(rarer.budgets.values()) > limit
    assert with_rotation(manifest, 7) is None and with_rotation(manifest, 7, spare=2)
    chosen = choose(manifest, 100)
    rotations = next(k for k in chosen.kinds if k.kind == "rotate")
    assert chosen.rotation_windows and chosen.bits >= 100 and rotations.tasks % 4 == 0


def test_a_public_base_is_not_rotated() -> None:
    found = with_rotation(replace(toy_draft("public").manifest, steps=300, loss_tokens=(1,) * 300), 30)
    assert found and {str(t.commitments[1][1]).split("@")[0] for t in task_list(found) if t.kind == "rotate"} == {"dataset"}


def test_a_rotated_run_is_proved_and_its_chain_holds(tmp_path: Path) -> None:
    found = toy(layers=1, steps=3, window_steps=1, sizes=EVEN, target_modules=("q_proj",))
    manifest = replace(with_budgets(replace(found.manifest, rotation_windows=2)), profile="goldilocks-2^12")
    prepared = Prepared(manifest, found.base, found.tokens, found.mask, Calibration(manifest.exponents, [], []))
    where = stores(tmp_path)
    run = start(where, Draft(manifest, prepared, Estimate(manifest.profile, 1, manifest.budgets, 2, ()), "0" * 64))
    for w in range(3):
        train_window(run, w)
    for task in task_list(run.manifest):
        prove_statement(run, task)
    copied = ["base/0@2", "dataset@2", "embedding@2", "head@2"]
    assert [str(t.commitments[1][1]) for t in task_list(run.manifest) if t.kind == "rotate"] == copied
    first, copy = (run.opened(Name("base/0", w)).data for w in (-1, 2))
    assert first.id != copy.id and (first.rho != copy.rho).any()
    [stored] = [where.private.get(name) for name in where.private.names(f"runs/{run.run_id}/commitments/base/0/2-")]
    assert len(stored) < 1000  # a copy's seed alone
    for row in where.ledger.record(run.run_id).commitments:
        assert row.budget is None or where.ledger.openings_spent(row.commitment_id) <= row.budget - SPARE_OPENINGS
    assert judge(collect(where.log, run.run_id)).accepted


@pytest.mark.parametrize(("change", "message"), [
    ({"batch_size": 5}, "training.batch_size: 5 with gradient_accumulation 1 is more than the 4 examples"),
    ({"gradient_accumulation": 3}, "batch_size: 2 with gradient_accumulation 3 .* a product from 1 to 4"),
    ({"optimizer": Optimizer(kind="sgd", learning_rate="0.1", warmup_steps=3)}, "warmup_steps: 3 is more than the run's 2 steps"),
    ({"base_visibility": "secret"}, "base_visibility"),
    ({"parts": 4}, r"audit.parts: 4 does not divide the 2 sequences of a step .* or one of \[1, 2\]"),
])
def test_what_cannot_be_run_is_refused(request_: RunRequest, change: dict[str, object], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        draft(replace(request_, **change), "key")


def test_no_memory_is_planned_to_its_last_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.plan.memory_bytes", lambda name: 1000)
    monkeypatch.setattr("tasks.plan.resident_bytes", lambda name: 7)
    rooms = [Room.here(SimpleNamespace(name=name)) for name in ("cpu", "reference", "cuda")]  # type: ignore[arg-type]
    assert [(room.limit, room.memory, room.program) for room in rooms] == [(900, 1000, 7)] * 3
    assert [room.said for room in rooms] == [""] * 3
    monkeypatch.setenv(SHARES, "4")  # memory_bytes is a share already; in a share of a GPU contexts take what they take
    rooms = [Room.here(SimpleNamespace(name=name)) for name in ("cpu", "cuda")]  # type: ignore[arg-type]
    assert [(room.limit, room.memory, room.said) for room in rooms] == [(900, 1000, "for each of 4 processes")] * 2


def test_a_step_is_divided_among_as_few_parts_as_fit(request_: RunRequest) -> None:
    asked, room = replace(request_, batch_size=4, sequence_length=48, lora=Lora(2, 4, PROJECTIONS)), Room("cpu", 105_000_000, 7)
    whole, split = draft(asked, "key"), draft(asked, "key", room=room)
    assert whole.manifest.parts == 1 and whole.estimate.memory > room.limit
    assert split.manifest.parts == split.estimate.parts == split.estimate.to_json()["parts"] == 2
    assert split.estimate.memory + room.program <= room.limit
    with pytest.raises(PlanError, match="what fits, each with the rest as it is, is audit.parts: 2 or training.batch_size"):
        draft(replace(asked, parts=1), "key", room=room)


def test_a_ledger_that_forgot_the_run_is_refused(tmp_path: Path, request_: RunRequest) -> None:
    where = stores(tmp_path)
    start(where, draft(request_, plan_key(request_)))
    other = Stores(open_ledger(f"sqlite:///{tmp_path / 'other.db'}"), where.objects, where.private)
    with pytest.raises(StorageError, match="another ledger"):
        planned(other, plan_key(request_))


def test_a_plan_cut_off_before_its_rows_is_completed(tmp_path: Path, request_: RunRequest) -> None:
    where = stores(tmp_path)
    run = start(where, draft(request_, plan_key(request_)))
    for later in (f"runs/{run.run_id}/recorded", "log/seen"):
        where.private.remove(later)
    other = Stores(open_ledger(f"sqlite:///{tmp_path / 'fresh.db'}"), open_object_store(f"file:{tmp_path / 'fresh'}"), where.private)
    assert planned(other, plan_key(request_)) is not None
    both = [[replace(row, created=None) for row in x.ledger.record(run.run_id).commitments] for x in (other, where)]
    assert both[0] == both[1] and len(both[0]) == 5


def test_a_public_base_is_recomputed_by_anyone(tmp_path: Path) -> None:
    run = toy_run(tmp_path, "public")
    weights = run.tensors(Name("base/0"))
    anyone = commit(ReferenceBackend(GOLDILOCKS), run.layout(Name("base/0")), weights, PUBLIC_SEED)
    assert anyone.id == run.manifest.commitments["base/0"]
    assert prove_statement(run, task_list(run.manifest)[0]).fresh  # and its openings are unlimited
    assert budget_of(run.manifest, Name("base/0")) is None and budget_of(run.manifest, Name("dataset")) is not None


def test_a_private_base_has_another_id_in_every_run(tmp_path: Path) -> None:
    first, second = toy_run(tmp_path / "a"), toy_run(tmp_path / "b")
    for name, identity in first.manifest.commitments.items():
        assert second.manifest.commitments[name] != identity


def test_the_manifest_says_what_was_asked_for(request_: RunRequest) -> None:
    optimizer = Optimizer(kind="adamw", learning_rate="0.01", max_grad_norm="1", schedule="linear", warmup_steps=1)
    asked = replace(request_, optimizer=optimizer, gradient_accumulation=2, weight_bits=16, weight_scales="row", packing=True, epochs=4,
                    batch_size=1)
    found = draft(asked, "key").manifest
    assert (found.optimizer, found.gradient_accumulation, found.weight_scales, found.dataset_owner) == (optimizer, 2, "row", "")
    assert (found.widths["weight"], found.widths["head"], found.widths["gamma"]) == (16, 16, 16)
    assert found.lora == request_.lora and found.steps == 4 * (found.examples // 2)
    assert len({plan_key(replace(asked, **{key: value})) for key, value in {
        "packing": False, "parts": 2, "gradient_accumulation": 1, "weight_bits": 12, "weight_scales": "tensor", "headroom": 1,
        "lora": replace(asked.lora, use_rslora=True), "data_format": "text", "epochs": 1}.items()} | {plan_key(asked)}) == 10


def test_headroom_is_room(request_: RunRequest) -> None:
    tight, wide = (draft(replace(request_, headroom=n), "key").prepared.calibration for n in (0, 2))
    assert {row.key: row.exponent for row in wide.table}["layer/0/q"] == {row.key: row.exponent for row in tight.table}["layer/0/q"] - 2
    for a, b in zip(tight.table, wide.table, strict=True):
        assert (a.key, a.maximum) == (b.key, b.maximum) and a.exponent - 2 <= b.exponent <= a.exponent
        assert b.exponent == a.exponent - 2 or a.maximum == 0 or a.key.endswith(".copy") or a.key == "norm"


def test_the_cost_of_quantisation_is_measured(request_: RunRequest) -> None:
    coarse, fine = (quantisation_loss(asked, draft(asked, "key")) for asked in (request_, replace(request_, weight_bits=16)))
    assert coarse.stored == fine.stored > 0
    assert abs(fine.relative) < abs(coarse.relative) < 0.01


def test_a_run_takes_exactly_the_owners_dataset(tmp_path: Path, request_: RunRequest, owned: RunRequest) -> None:
    where, opening = stores(tmp_path), read_opening(owned.dataset_opening or Path())
    run = start(where, draft(owned, plan_key(owned), where.ledger.openings_spent))
    assert run.manifest.commitments["dataset"] == opening.id and run.manifest.dataset_owner == "the owner"
    assert run.manifest.profile == opening.profile and run.manifest.budgets["dataset"] == opening.openings
    tensors = run.tensors(Name("dataset"))
    assert (tensors["tokens"] == opening.tokens).all() and (tensors["mask"] == opening.mask).all()
    assert run.opened(Name("dataset")).data.root.hex() == next(
        c.root for c in where.ledger.record(run.run_id).commitments if c.name == "dataset"
    )
    assert draft(request_, "key").manifest.dataset_owner == ""


@pytest.mark.parametrize(("change", "message"), [
    ({"sequence_length": 16}, "training.sequence_length: 16 is not the 12 of .*; valid is 12"),
])
def test_another_request_is_refused(owned: RunRequest, change: dict[str, object], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        draft(replace(owned, **change), "key")


def test_openings_spent_by_other_runs_are_counted(owned: RunRequest) -> None:
    identity = read_opening(owned.dataset_opening or Path()).id
    assert draft(owned, "key", lambda name: 2 if name == identity else 0).manifest.budgets["dataset"] == 9
    with pytest.raises(PlanError, match="6 of its 9 openings are left.*at least 7 times"):
        draft(owned, "key", lambda name: 3 if name == identity else 0)
    fewer = replace(owned, spare_openings=2)
    assert draft(fewer, "key", lambda name: 4 if name == identity else 0).manifest.budgets["dataset"] == 9


def test_a_long_run_rotates_the_owners_dataset(owned: RunRequest) -> None:
    found = draft(replace(owned, window_steps=1, epochs=4, spare_openings=2), "key")
    assert found.manifest.rotation_windows == 2 and found.manifest.budgets["dataset"] == 9


def test_another_model_is_refused(owned: RunRequest) -> None:
    config = owned.base_model / "config.json"
    tokenizer = owned.base_model / "tokenizer.json"
    before = tokenizer.read_bytes()
    tokenizer.write_bytes(before + b"\n")
    with pytest.raises(PlanError, match="was tokenised with the tokenizer.json of SHA-256"):
        draft(owned, "key")
    tokenizer.write_bytes(before)
    Folder(owned.base_model).write()
    small = Folder(owned.base_model)
    small.config["vocab_size"] = 60
    small.tensors = {n: t[:60] if n in ("model.embed_tokens.weight", "lm_head.weight") else t for n, t in small.tensors.items()}
    small.write()
    assert json.loads(config.read_text())["vocab_size"] == 60
    with pytest.raises(PlanError, match="outside the vocabulary of 60 of base_model"):
        draft(owned, "key")


def test_an_opening_is_used_with_one_ledger(tmp_path: Path, owned: RunRequest) -> None:
    where = stores(tmp_path)
    start(where, draft(owned, plan_key(owned)))
    other = Stores(open_ledger(f"sqlite:///{tmp_path / 'other.db'}"), where.objects, where.private)
    again = replace(owned, seed=4)
    with pytest.raises(StorageError, match="used it with another ledger"):
        start(other, draft(again, plan_key(again)))
    assert start(where, draft(again, plan_key(again))).manifest.seed == 4


@pytest.mark.usefixtures("the_same_draws")
def test_a_clipped_adamw_run_costs_what_was_foretold(tmp_path: Path) -> None:
    found = toy(layers=1, steps=2, window_steps=1, sizes=EVEN, target_modules=("q_proj",), kind="adamw", max_grad_norm="1")
    manifest = replace(with_budgets(found.manifest), profile="goldilocks-2^12")
    estimate = choose(manifest, 100, ("goldilocks-2^12",))
    prepared = Prepared(manifest, found.base, found.tokens, found.mask, Calibration(manifest.exponents, [], []))
    run = start(stores(tmp_path), Draft(manifest, prepared, estimate, "0" * 64))
    assert (estimate.tasks, {k.kind: k.tasks for k in estimate.kinds}["clip"]) == (len(task_list(manifest)), 2)
    for w in range(2):
        train_window(run, w)
    sizes: dict[str, int] = {}
    for task in task_list(manifest):
        sizes[task.kind] = sizes.get(task.kind, 0) + prove_statement(run, task).size
    for kind in estimate.kinds:
        assert abs(sizes[kind.kind] - kind.proof_bytes) < 0.02 * kind.proof_bytes
    proofs = run.stores.ledger.record(run.run_id).proofs
    assert min(json.loads(row.soundness)["bits"] for row in proofs) == int(estimate.bits)


def test_a_shape_is_counted_once_and_openings_once_for_a_rotation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under six profiles, for a run of 300 windows that has to rotate under the smaller ones."""
    manifest = replace(toy_draft("public").manifest, steps=300, loss_tokens=(1,) * 300)
    windows, shapes, works = list[int](), list[object](), list[object]()

    def spy(found: list[Any], real: Any, key: Any) -> Any:
        return lambda *arguments, **options: (found.append(key(*arguments)), real(*arguments, **options))[1]

    monkeypatch.setattr("tasks.budgets.opening_counts", spy(windows, opening_counts, lambda m: m.rotation_windows))
    monkeypatch.setattr("tasks.estimate.forecast", spy(works, forecast, lambda counted, *_: counted))
    monkeypatch.setattr("prover.cost.forecast.record_claims", spy(shapes, record_claims, lambda shape: shape.graph.digest()))
    estimate = choose(manifest, 100)
    assert len(windows) == len(set(windows)) > 1
    assert len(works) == len(set(works)) and len(shapes) <= len(works) + 3 < estimate.tasks  # copies, where a profile rotates
