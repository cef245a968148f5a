"""What a verdict rests on and leaves behind: the signed log, receipts, samples, states, bundles."""

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

import tasks.verify
from cli import app
from protocol.statement import task_list
from storage.checkpoint import LogKeys, SigningKey
from storage.errors import LedgerError
from storage.ledger import open_ledger
from storage.models import EventRow
from tests.cli.build_run import RUN_ID, Built
from tests.cli.commands import objects, publisher, run, sign_anew, verify
from verifier.note import COSIGNER_KEY
from verifier.receipt import load_key, sign_receipt, verify_receipt
from verifier.run import TaskVerdict

Rewrite = Callable[[Built, str], None]

# the log --------------------------------------------------------------------------------------------------------------


def test_the_log_s_signature_is_checked_under_a_policy(built: Built, policy: Path, tmp_path: Path) -> None:
    code, verdict = verify(built, "--policy", str(policy))
    assert code == 0 and "signed as the policy demands" in verdict["log"]["trust"]
    other = LogKeys(SigningKey(verdict["log"]["origin"], bytes(32)))
    (tmp_path / "other").write_text(other.policy_text())
    code, verdict = verify(built, "--policy", str(tmp_path / "other"))
    assert code == 1 and verdict["reason"].startswith("checkpoint-signature")


def test_a_cosigner_that_the_policy_demands_must_have_signed(built: Built, policy: Path, tmp_path: Path) -> None:
    cosigner = SigningKey("example.net/cosigner", bytes(32), COSIGNER_KEY)
    lines = policy.read_text().replace("quorum none", f"witness one {cosigner.public}\nquorum one")
    (tmp_path / "policy").write_text(lines)
    code, verdict = verify(built, "--policy", str(tmp_path / "policy"))
    assert code == 1 and verdict["reason"].startswith("missing-checkpoint")


@pytest.mark.parametrize("text", ["", "log x\nquorum none\n", "quorum two\n"])
def test_a_policy_that_is_none_is_a_usage_error(built: Built, tmp_path: Path, text: str) -> None:
    (tmp_path / "policy").write_text(text)
    code, output = run("verify", RUN_ID, *built.arguments, "--policy", str(tmp_path / "policy"))
    assert code == 2 and "policy" in output
    assert run("verify", RUN_ID, *built.arguments, "--policy", str(tmp_path / "none"))[0] == 2


def test_what_was_seen_of_the_log_is_remembered(copy: Built, policy: Path, rewrite: Rewrite, tmp_path: Path) -> None:
    seen = ("--seen", str(tmp_path / "seen"), "--policy", str(policy))
    assert verify(copy, *seen)[0] == 0
    first = (tmp_path / "seen").read_bytes()
    publisher(copy).ledger.append(EventRow(RUN_ID, "noted", 0, "{}"))
    publisher(copy).publish()
    assert verify(copy, *seen)[0] == 0
    second = (tmp_path / "seen").read_bytes()
    assert first != second
    rewrite(copy, "DELETE FROM checkpoints WHERE size = (SELECT max(size) FROM checkpoints)")
    code, verdict = verify(copy, *seen)
    assert code == 1 and ("rollback" in verdict["reason"]) and (tmp_path / "seen").read_bytes() == second
    rewrite(copy, "UPDATE run_events SET detail = '{\"other\":1}'")
    sign_anew(copy)
    code, verdict = verify(copy, *seen)
    assert code == 1 and "fork" in verdict["reason"] and (tmp_path / "seen").read_bytes() == second


def test_a_row_that_no_checkpoint_covers_yet_rejects_and_a_verdict_does_not(copy: Built) -> None:
    assert verify(copy, "--record", "--sign-key", str(copy.folder / "key"))[0] == 0
    assert verify(copy)[0] == 0
    publisher(copy).ledger.append(EventRow(RUN_ID, "late", 0, "{}"))
    code, verdict = verify(copy)
    assert code == 1 and verdict["reason"].startswith("row-position")


# receipts, samples, states --------------------------------------------------------------------------------------------


def test_verdicts_are_appended_only_when_asked(copy: Built, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    assert verify(copy)[0] == 0
    assert open_ledger(copy.ledger_url, read_only=True).record(RUN_ID).verdicts == ()
    assert not (tmp_path / "home").exists()
    assert verify(copy, "--record", "--verifier", "auditor")[0] == 0
    verdicts = open_ledger(copy.ledger_url, read_only=True).record(RUN_ID).verdicts
    assert len(verdicts) == len(task_list(copy.manifest)) + 1
    assert all(row.accepted and row.verifier == "auditor" for row in verdicts)
    [whole] = [row for row in verdicts if row.subject == "run"]
    said = verify_receipt(whole.signature.encode())["predicate"]
    assert said["accepted"] and said["run"] == RUN_ID and len(said["tasks"]) == len(task_list(copy.manifest))
    assert stat.S_IMODE((tmp_path / "home" / "verilora" / "verifier.key").stat().st_mode) == 0o600


def test_who_may_not_append_has_the_verdict_all_the_same(copy: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise LedgerError("permission denied for table verdicts")

    monkeypatch.setattr("tasks.verify.submit", refused)
    code, output = run("verify", RUN_ID, *copy.arguments, "--workers", "1", "--record", "--sign-key", str(copy.folder / "key"))
    assert code == 3 and output.index("ACCEPTED") < output.index("permission denied"), output


def test_a_receipt_is_written_and_submitted_once(copy: Built, tmp_path: Path) -> None:
    receipt = tmp_path / "receipt.json"
    assert verify(copy, "--receipt", str(receipt), "--sign-key", str(tmp_path / "key"))[0] == 0
    for said in ("appended the verdict", "already"):
        code, output = run("ledger", "submit", str(receipt), "--ledger", copy.ledger_url)
        assert code == 0 and said in output, output
    verdicts = open_ledger(copy.ledger_url, read_only=True).record(RUN_ID).verdicts
    assert len(verdicts) == len(task_list(copy.manifest)) + 1
    assert verify(copy)[0] == 0


def test_a_receipt_that_is_not_of_this_ledger_is_refused(copy: Built, rewrite: Rewrite, tmp_path: Path) -> None:
    receipt, key = tmp_path / "receipt.json", load_key(tmp_path / "key")
    assert verify(copy, "--receipt", str(receipt), "--sign-key", str(tmp_path / "key"))[0] == 0
    values = verify(copy)[1]
    submit = ("ledger", "submit", str(receipt), "--ledger", copy.ledger_url)
    forged = receipt.read_bytes().replace(b'"sig":"', b'"sig":"AAAA')
    for data, code, word in [
        (forged, 1, "receipt"),
        (sign_receipt(values | {"run": "another"}, "x", key), 2, RUN_ID),
        (sign_receipt(values | {"digests": {"manifest": "0" * 64}}, "x", key), 1, "receipt-subject"),
        (sign_receipt(values | {"log": values["log"] | {"root": "0" * 64}}, "x", key), 1, "receipt-log"),
        (sign_receipt(values | {"log": {"size": []}}, "x", key), 1, "malformed"),
        (b"", 1, "receipt"),
    ]:
        receipt.write_bytes(data)
        found, output = run(*submit)
        assert found == code and word in output and "Traceback" not in output, output
    assert open_ledger(copy.ledger_url, read_only=True).record(RUN_ID).verdicts == ()
    receipt.unlink()
    assert run(*submit)[0] == 2


def test_a_rejection_is_recorded_as_one(copy: Built, tmp_path: Path) -> None:
    objects(copy)[0].unlink()
    assert verify(copy, "--record", "--sign-key", str(tmp_path / "key"))[0] == 1
    verdicts = open_ledger(copy.ledger_url, read_only=True).record(RUN_ID).verdicts
    assert sum(not row.accepted for row in verdicts) == 2
    assert all("missing-object" in row.reason for row in verdicts if not row.accepted)


def test_a_sample_is_recorded_as_a_sample(copy: Built, tmp_path: Path) -> None:
    code, verdict = verify(copy, "--record", "--sign-key", str(tmp_path / "key"), "--sample", "4", "--beacon", "ab" * 16)
    assert code == 0 and not verdict["accepted"] and verdict["state"] == "sample passed" and len(verdict["tasks"]) == 4
    [whole] = [row for row in open_ledger(copy.ledger_url, read_only=True).record(RUN_ID).verdicts if row.subject == "run"]
    assert not whole.accepted and whole.reason == "sample passed"


@pytest.mark.parametrize("options", [
    ("--sample", "2"), ("--beacon", "ab" * 16), ("--sample", "2", "--beacon", "xyz"), ("--sample", "0", "--beacon", "ab" * 16),
])
def test_a_sample_needs_a_beacon(built: Built, options: tuple[str, ...]) -> None:
    assert run("verify", RUN_ID, *built.arguments, *options)[0] == 2


def test_an_interrupted_verification_goes_on(built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []
    real = tasks.verify.check_one

    def check(*job: object) -> TaskVerdict:
        if len(checked) == 4:
            raise KeyboardInterrupt
        checked.append(str(job[1]))
        return real(*job)  # type: ignore[arg-type]

    state = ("--state", str(tmp_path / "state"))
    whole = verify(built)[1]
    monkeypatch.setattr(tasks.verify, "check_one", check)
    assert CliRunner().invoke(app, ["verify", RUN_ID, *built.arguments, "--workers", "1", *state]).exit_code != 0
    (tmp_path / "state").write_bytes((tmp_path / "state").read_bytes() + b'{"key": "cut off')
    checked[:] = checked[:0]
    monkeypatch.setattr(tasks.verify, "check_one", lambda *job: checked.append(str(job[1])) or real(*job))
    code, verdict = verify(built, *state)
    assert code == 0 and len(checked) == len(task_list(built.manifest)) - 4
    assert {key: verdict[key] for key in verdict if key != "seconds"} == {key: whole[key] for key in whole if key != "seconds"}
    checked.clear()
    assert verify(built, *state)[0] == 0 and checked == []


def test_a_state_does_not_vouch_for_what_changed(copy: Built, tmp_path: Path) -> None:
    state = ("--state", str(tmp_path / "state"))
    assert verify(copy, *state)[0] == 0
    path = objects(copy)[3]
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert verify(copy, *state)[0] == 1


def test_a_state_that_others_can_write_is_refused(built: Built, tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(b"")
    (tmp_path / "state").chmod(0o664)
    code, output = run("verify", RUN_ID, *built.arguments, "--state", str(tmp_path / "state"))
    assert code == 2 and "chmod 600" in output
    for content in (b"no state\n", b"no state", b"[]\n"):
        (tmp_path / "other").unlink(missing_ok=True)
        (tmp_path / "other").write_bytes(content)
        (tmp_path / "other").chmod(0o600)
        assert run("verify", RUN_ID, *built.arguments, "--state", str(tmp_path / "other"))[0] == 2
        assert (tmp_path / "other").read_bytes() == content


# bundles --------------------------------------------------------------------------------------------------------------


def test_an_exported_bundle_has_the_live_verdict(built: Built, policy: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.bundle"
    code, output = run("ledger", "export", RUN_ID[:5], str(file), *built.arguments)
    assert code == 0 and str(file) in output
    options = ("--policy", str(policy), "--workers", "1", "--json", "--report", str(tmp_path / "report"))
    code, output = run("verify", str(file), *options)
    assert code == 0
    ours, live = json.loads(output), verify(built, "--policy", str(policy))[1]
    assert {key: ours[key] for key in ours if key != "seconds"} == {key: live[key] for key in live if key != "seconds"}
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"report.html", "report.json"}
    code, output = run("ledger", "export", RUN_ID, str(file), *built.arguments)
    assert code == 2 and "exists" in output
    assert run("verify", str(file), "--record")[0] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report", "run.bundle"]


def test_the_same_checkpoint_gives_the_same_bytes(built: Built, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert run("ledger", "export", RUN_ID, str(tmp_path / name), *built.arguments)[0] == 0
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_bundle_shows_that_the_log_continues_one_seen_before(copy: Built, tmp_path: Path) -> None:
    seen = ("--seen", str(tmp_path / "seen"))
    assert verify(copy, *seen)[0] == 0
    size = verify(copy)[1]["log"]["size"]
    publisher(copy).ledger.append(EventRow(RUN_ID, "noted", 0, "{}"))
    publisher(copy).publish()
    assert run("ledger", "export", RUN_ID, str(tmp_path / "without"), *copy.arguments)[0] == 0
    assert run("ledger", "export", RUN_ID, str(tmp_path / "with"), "--since", str(size), *copy.arguments)[0] == 0
    code, output = run("verify", str(tmp_path / "without"), "--workers", "1", *seen)
    assert code == 1 and f"--since {size}" in output
    assert run("verify", str(tmp_path / "with"), "--workers", "1", *seen)[0] == 0
    assert run("ledger", "export", RUN_ID, str(tmp_path / "no"), "--since", str(size + 9), *copy.arguments)[0] == 3
    assert not (tmp_path / "no").exists()


def test_what_cannot_be_exported(copy: Built, rewrite: Rewrite, tmp_path: Path) -> None:
    objects(copy)[2].unlink()
    code, output = run("ledger", "export", RUN_ID, str(tmp_path / "x"), *copy.arguments)
    assert code == 3 and "is not in" in output and list(tmp_path.glob("*x*")) == []
    rewrite(copy, "DELETE FROM checkpoints")
    code, output = run("ledger", "export", RUN_ID, str(tmp_path / "x"), *copy.arguments)
    assert code == 3 and "no signed checkpoint" in output and list(tmp_path.glob("*x*")) == []
    assert run("ledger", "export", RUN_ID, str(tmp_path / "x"), "--cosigned", *copy.arguments)[0] == 3


def test_a_file_that_is_no_bundle_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"not a bundle")
    code, output = run("verify", str(tmp_path / "file"))
    assert code == 1 and "REJECTED" in output and "Traceback" not in output
