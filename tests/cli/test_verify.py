"""`verilora verify`: verdicts and exit codes on an honest run, on damaged copies, and against orders."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from protocol.statement import task_list
from storage.errors import UnknownRun
from storage.ledger import open_ledger
from storage.models import RunRow
from tasks.record import AmbiguousRun, find_run
from tests.cli.build_run import RUN_ID, Built
from tests.cli.commands import objects, run, sign_anew, verify

Rewrite = Callable[[Built, str], None]
ROOT = Path(__file__).resolve().parents[2]

IN_PROCESS = """
import sys
from cli import app
try:
    app(sys.argv[1:])
except SystemExit as end:
    code = end.code
loaded = sorted({name.split(".")[0] for name in sys.modules} & {"prover", "torch", "cupy", "prefect", "peft", "transformers"})
print("loaded:", loaded, file=sys.stderr)
sys.exit(code if not loaded else 99)
"""


@pytest.fixture(scope="module")
def honest(built: Built) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", IN_PROCESS, "verify", RUN_ID[:6], *built.arguments, "--json"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_an_honest_run_is_accepted_without_prover_code(honest: subprocess.CompletedProcess[str]) -> None:
    assert "loaded: []" in honest.stderr and honest.returncode == 0, honest.stderr


def test_every_task_of_every_window_is_listed(built: Built, honest: subprocess.CompletedProcess[str]) -> None:
    verdict = json.loads(honest.stdout)
    assert verdict["accepted"] and verdict["order"] == "not compared with an order"
    assert [item["task"] for item in verdict["tasks"]] == [str(task) for task in task_list(built.manifest)]
    assert all(item["accepted"] and item["bits"] >= 100 for item in verdict["tasks"])
    assert verdict["bits"] >= verdict["total_bits"] >= 90


def test_what_became_public_is_listed(built: Built, honest: subprocess.CompletedProcess[str]) -> None:
    public = json.loads(honest.stdout)["public"]
    assert public["model"]["hidden"] == built.manifest.model.hidden
    assert public["examples"] == 6 and len(public["loss_tokens"]) == 2
    assert len(public["loss"]) == 2 and all(0 < float(x) < 20 for x in public["loss"])
    assert public["exponents"] == built.manifest.exponents
    assert public["events"] == ["finished {}"] and len(public["proof_seconds"]) == 10


def test_verdicts_are_readable_without_json(built: Built) -> None:
    code, output = run("verify", RUN_ID, *built.arguments, "--workers", "1")
    assert code == 0 and "ACCEPTED" in output and "layer(1, 0)" in output and "not compared with an order" in output


# orders ---------------------------------------------------------------------------------------------------------------


def order_of(built: Built) -> dict:
    code, output = run("ledger", "show", RUN_ID, "--order", "--ledger", built.ledger_url)
    assert code == 0
    return yaml.load(output, yaml.BaseLoader)


def with_order(built: Built, folder: Path, order: object) -> tuple[int, str]:
    path = folder / "order.yaml"
    path.write_text(yaml.safe_dump(order))
    return run("verify", RUN_ID, *built.arguments, "--workers", "1", "--json", "--expect", str(path))


def test_the_order_that_ledger_show_prints_is_fulfilled(built: Built, tmp_path: Path) -> None:
    code, output = with_order(built, tmp_path, order_of(built))
    assert code == 0 and "values agree" in json.loads(output)["order"]


@pytest.mark.parametrize(("keys", "value"), [
    (("optimizer", "learning_rate"), "0.03"),
    (("commitments", "dataset"), "0" * 64),
    (("commitments", "base/0"), "1" * 64),
    (("model", "layers"), "2"),
    (("lora", "target_modules"), ["q_proj"]),
    (("seed",), "8"),
    (("steps",), "3"),
    (("profile",), "goldilocks-2^12"),
    (("publish_loss",), "false"),
    (("colour",), "red"),
])
def test_another_order_is_rejected_by_key(built: Built, tmp_path: Path, keys: tuple[str, ...], value: object) -> None:
    order = order_of(built)
    place = order
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    code, output = with_order(built, tmp_path, order)
    assert code == 1 and not json.loads(output)["accepted"]
    assert ".".join(keys) in json.loads(output)["reason"]


@pytest.mark.parametrize("text", ["", "[1, 2]", "a: [", "- x"])
def test_an_unreadable_order_is_a_usage_error(built: Built, tmp_path: Path, text: str) -> None:
    (tmp_path / "order.yaml").write_text(text)
    code, output = run("verify", RUN_ID, *built.arguments, "--expect", str(tmp_path / "order.yaml"))
    assert code == 2 and "order" in output and "Traceback" not in output


# damage ---------------------------------------------------------------------------------------------------------------


def test_a_flipped_proof_byte_is_rejected(copy: Built) -> None:
    path = objects(copy)[3]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    code, verdict = verify(copy)
    assert code == 1 and "damaged-object" in verdict["reason"]
    assert sum(not item["accepted"] for item in verdict["tasks"]) == 1


def test_a_missing_object_is_rejected_not_a_traceback(copy: Built) -> None:
    objects(copy)[0].unlink()
    code, verdict = verify(copy)
    assert code == 1 and "missing-object" in verdict["reason"]
    assert sum(not item["accepted"] for item in verdict["tasks"]) == 1


FLIPS = {
    "manifest": ("UPDATE runs SET manifest = replace(manifest, '\"seed\":7', '\"seed\":6')", "manifest-digest"),
    "manifest, no JSON": ("UPDATE runs SET manifest = 'x' || substr(manifest, 2)", "manifest-digest"),
    "manifest digest": (f"UPDATE runs SET manifest_digest = '{'0' * 64}'", "manifest-digest"),
    "root of a state": (f"UPDATE commitments SET root = '{'0' * 64}' WHERE name = 'state/0' AND window = 1", "state/0@1"),
    "root that is no hex": ("UPDATE commitments SET root = 'zz' WHERE name = 'state/0' AND window = 1", "commitment-row"),
    "root of the dataset": (f"UPDATE commitments SET root = '{'0' * 64}' WHERE name = 'dataset'", "commitment-id"),
    "commitment id": (f"UPDATE commitments SET commitment_id = '{'0' * 64}' WHERE name = 'x/0' AND window = 1", "commitment_id"),
    "geometry": ("UPDATE commitments SET geometry = replace(geometry, '2048', '2049') WHERE name = 'x/0'", "geometry"),
    "budget": ("UPDATE commitments SET budget = 99 WHERE name = 'head'", "budget"),
    "published loss": ("UPDATE statements SET content = replace(content, '\"loss\":[', '\"loss\":[1') WHERE kind = 'head'", "head(0)"),
    "statement's window": ("UPDATE statements SET window = 7 WHERE kind = 'embed' AND window = 1", "statement-row"),
    "soundness": ("UPDATE proofs SET soundness = replace(soundness, '\"bits\":1', '\"bits\":2')", "soundness"),
    "soundness, no JSON": ("UPDATE proofs SET soundness = '{'", "soundness"),
    "size": ("UPDATE proofs SET size = size + 1", "proof-row"),
    "proof of another task": (
        "UPDATE proofs SET (object_digest, size) = (SELECT p.object_digest, p.size FROM proofs p JOIN statements s "
        "USING (statement_id) WHERE s.kind = 'embed' AND s.window = 0) WHERE statement_id = "
        "(SELECT statement_id FROM statements WHERE kind = 'embed' AND window = 1)", "embed(1)"),
}
DROPS = {
    "commitment renamed": ("UPDATE commitments SET name = 'x/9' WHERE name = 'x/1' AND window = 0", "missing-commitment"),
    "commitment dropped": ("DELETE FROM commitments WHERE name = 'delivered/0'", "missing-commitment"),
    "proof dropped": (
        "DELETE FROM proofs WHERE statement_id = (SELECT statement_id FROM statements WHERE kind = 'embed')", "missing-proof"),
    "checkpoint dropped": ("DELETE FROM checkpoints", "missing-checkpoint"),
    "checkpoint changed": ("UPDATE checkpoints SET note = 'x' || note", "checkpoint-origin"),
    "entry changed": ("UPDATE log_entries SET leaf_hash = replace(leaf_hash, 'a', 'b')", "inclusion"),
    "entry dropped": ("DELETE FROM log_entries WHERE row_table = 'commitments'", ""),
}


@pytest.mark.parametrize("name", FLIPS)
def test_a_rewritten_row_is_not_in_the_log(copy: Built, rewrite: Rewrite, name: str) -> None:
    rewrite(copy, FLIPS[name][0])
    code, verdict = verify(copy)
    assert code == 1 and not verdict["accepted"] and verdict["reason"].startswith("inclusion"), verdict["reason"]


@pytest.mark.parametrize("name", FLIPS)
def test_a_rewritten_row_is_rejected_although_the_log_was_signed_anew(copy: Built, rewrite: Rewrite, name: str) -> None:
    sql, reason = FLIPS[name]
    rewrite(copy, sql)
    sign_anew(copy)
    code, verdict = verify(copy)
    assert code == 1 and not verdict["accepted"] and reason in verdict["reason"], verdict["reason"]


@pytest.mark.parametrize("name", DROPS)
def test_what_is_dropped_from_a_ledger_is_missed(copy: Built, rewrite: Rewrite, policy: Path, name: str) -> None:
    sql, reason = DROPS[name]
    rewrite(copy, sql)
    code, output = run("verify", RUN_ID, *copy.arguments, "--workers", "1", "--json", "--policy", str(policy))
    assert code == 1 or (name == "entry dropped" and code == 3), output
    assert reason in output


def test_a_ledger_may_say_less_soundness_than_is_proved(copy: Built, rewrite: Rewrite) -> None:
    rewrite(copy, """UPDATE proofs SET soundness = '{"bits":100,"centibits":{"queries":10000},"total_bits":100}'""")
    sign_anew(copy)
    assert verify(copy)[0] == 0


# other exits ----------------------------------------------------------------------------------------------------------


def test_an_unknown_run_is_a_usage_error(built: Built) -> None:
    code, output = run("verify", "nothing", *built.arguments)
    assert code == 2 and RUN_ID in output


def test_an_ambiguous_beginning_is_a_usage_error(copy: Built, rewrite: Rewrite) -> None:
    rewrite(copy, f"INSERT INTO runs (run_id, manifest_digest, manifest) VALUES ('{RUN_ID[:4]}-1', '{'0' * 64}', '{{}}')")
    code, output = run("verify", RUN_ID[:4], *copy.arguments)
    assert code == 2 and f"{RUN_ID[:4]}-1" in output and RUN_ID in output


def test_a_missing_ledger_or_store_is_unavailable(built: Built, tmp_path: Path) -> None:
    code, output = run("verify", RUN_ID, "--ledger", f"sqlite:///{tmp_path / 'no.db'}", "--objects", built.objects_url)
    assert code == 3 and "no ledger" in output
    code, output = run("verify", RUN_ID, "--ledger", built.ledger_url, "--objects", f"file:{tmp_path / 'none'}")
    assert code == 3 and "no object store" in output and not (tmp_path / "none").exists()


def test_a_newer_ledger_is_unavailable_and_unchanged(copy: Built, rewrite: Rewrite) -> None:
    rewrite(copy, "UPDATE alembic_version SET version_num = 'r9999'")
    before = (copy.folder / "ledger.db").read_bytes()
    code, output = run("verify", RUN_ID, *copy.arguments)
    assert code == 3 and "newer release" in output and (copy.folder / "ledger.db").read_bytes() == before


def test_places_are_given_once(built: Built, tmp_path: Path) -> None:
    assert run("verify", RUN_ID, "--config", str(tmp_path / "run.yaml"), *built.arguments)[0] == 2
    assert run("verify", RUN_ID, "--ledger", built.ledger_url)[0] == 2
    code, output = run("verify", RUN_ID, "--config", str(tmp_path / "run.yaml"))
    assert code == 2 and "no such file" in output


def test_what_is_neither_a_file_nor_a_run_is_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, output = run("verify", "other.bundle")
    assert code == 2 and "there is no file other.bundle" in output
    code, output = run("verify", "abc")
    assert code == 2 and "--config" in output and "--ledger" in output
    book = open_ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    for number in range(12):
        book.append(RunRow(f"a{number:02d}", hashlib.sha256(b"{}").hexdigest(), "{}"))
    for text, said in (("b", "and 2 more"), ("a", "begins 12 run ids")):
        with pytest.raises((UnknownRun, AmbiguousRun), match=said) as caught:
            find_run(book, text)
        assert str(caught.value).count("a0") <= 10
    book.close()
