"""Planning: the same request is the same run, budgets fit or are refused, a public base has ids that anyone recomputes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from protocol.encoding import canonical_json
from protocol.field import GOLDILOCKS
from protocol.params import PROFILES
from protocol.schedule.task import TaskShape
from protocol.statement import Name, opening_counts, task_list
from prover.backend.reference import ReferenceBackend
from prover.commitment.commit import commit
from storage.errors import StorageError
from storage.ledger import open_ledger
from tasks.context import RunRequest, Stores, budget_of
from tasks.estimate import SPARE_OPENINGS, PlanError, choose, proof_size, with_budgets
from tasks.plan import PUBLIC_SEED, draft, plan_key, planned, start
from tasks.prove import prove_statement
from tests.prover.files.conftest import Folder
from tests.tasks.toy_run import stores, toy_draft, toy_run

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
        base_model=folder, dataset=tmp_path / "data.jsonl", r=2, lora_alpha=4, target_modules=("q_proj",), momentum="0.9",
        learning_rate="0.01", epochs=1, batch_size=2, sequence_length=12, seed=3, window_steps=4, max_steps=None,
        base_visibility="private", publish_loss=True, soundness_bits=100,
    )


def test_the_same_request_is_the_same_run(tmp_path: Path, request_: RunRequest) -> None:
    where = stores(tmp_path)
    assert planned(where, plan_key(request_)) is None
    drafted = draft(request_, plan_key(request_))
    assert drafted.manifest.steps == 2 and drafted.manifest.window_steps == 2  # one epoch of four examples
    run = start(where, drafted)
    again = planned(where, plan_key(request_))
    assert again is not None and again.run_id == run.run_id and again.manifest == run.manifest
    assert planned(where, plan_key(replace(request_, learning_rate="0.02"))) is None
    request_.dataset.write_text(request_.dataset.read_text() + json.dumps({"text": "more"}) + "\n")
    assert planned(where, plan_key(request_)) is None
    row = where.ledger.run(run.run_id)
    assert row.manifest.encode() == run.manifest.to_json()


def test_the_key_does_not_depend_on_the_place(tmp_path: Path, request_: RunRequest) -> None:
    before = plan_key(request_)
    request_.base_model.rename(tmp_path / "elsewhere")
    assert plan_key(replace(request_, base_model=tmp_path / "elsewhere")) == before


def test_budgets_are_the_openings_needed_and_some_spare() -> None:
    manifest = toy_draft().manifest
    assert {k: n - SPARE_OPENINGS for k, n in manifest.budgets.items()} == opening_counts(manifest)


def test_the_profile_with_the_smallest_proofs_is_chosen() -> None:
    chosen = choose(toy_draft().manifest, 100)
    assert PROFILES[chosen.profile].max_openings >= max(chosen.budgets.values())
    assert chosen.bits >= 100 and chosen.tasks == 10
    assert sum(k["tasks"] for k in chosen.to_json()["kinds"]) == 10
    canonical_json([k.kind for k in chosen.kinds])


def test_proof_bytes_are_foretold(tmp_path: Path) -> None:
    run = toy_run(tmp_path)
    for task in task_list(run.manifest)[:2]:
        shape = TaskShape(task.graph(run.manifest), run.params.field)
        foretold = proof_size(run.params, shape, [run.layout(name) for _, name in task.commitments])
        assert abs(prove_statement(run, task).size - foretold) < 0.02 * foretold  # siblings depend on drawn positions


def test_more_bits_than_the_field_has_are_refused() -> None:
    with pytest.raises(PlanError, match="soundness_bits: 128"):
        choose(toy_draft().manifest, 128)


def test_too_many_windows_are_refused_with_the_largest_number_that_fits() -> None:
    manifest = toy_draft().manifest
    long = with_budgets(replace(manifest, steps=1000, loss_tokens=(1,) * 1000))
    with pytest.raises(PlanError, match="largest number of windows that fits is") as caught:
        choose(long, 100)
    fits = int(str(caught.value).split("fits is ")[1].split(":")[0])
    limit = max(p.max_openings for p in PROFILES.values())

    def needed(windows: int) -> int:
        return max(with_budgets(replace(manifest, steps=windows, loss_tokens=(1,) * windows)).budgets.values())

    assert needed(fits) <= limit < needed(fits + 1)


@pytest.mark.parametrize(("change", "message"), [
    ({"batch_size": 5}, "training.batch_size: 5 is more than the 4 examples"),
    ({"learning_rate": "0.0000000000000000001"}, "optimizer.learning_rate"),
    ({"r": 5000}, "lora.r"),
])
def test_what_cannot_be_run_is_refused(request_: RunRequest, change: dict[str, object], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        draft(replace(request_, **change), "key")


def test_a_ledger_that_forgot_the_run_is_refused(tmp_path: Path, request_: RunRequest) -> None:
    where = stores(tmp_path)
    start(where, draft(request_, plan_key(request_)))
    other = Stores(open_ledger(f"sqlite:///{tmp_path / 'other.db'}"), where.objects, where.private)
    with pytest.raises(StorageError, match="another ledger"):
        planned(other, plan_key(request_))


def test_a_plan_cut_off_before_its_rows_is_completed(tmp_path: Path, request_: RunRequest) -> None:
    where = stores(tmp_path)
    run = start(where, draft(request_, plan_key(request_)))
    where.private.remove(f"runs/{run.run_id}/recorded")
    other = Stores(open_ledger(f"sqlite:///{tmp_path / 'fresh.db'}"), where.objects, where.private)
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
