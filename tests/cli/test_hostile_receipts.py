"""Receipts put to other uses than the auditor who signed them had: counted twice, for another run, without what they are about.

And texts of other people's ledgers on an auditor's terminal."""

import base64
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from protocol.encoding import canonical_json
from protocol.statement import Name, commitment_layout
from prover.backend import select
from prover.commitment.commit import commit
from prover.randomness import fresh_seed
from storage.ledger import open_ledger
from storage.models import CommitmentRow, EventRow, RunRow
from tasks.adapter import export_adapter
from tests.cli.build_run import RUN_ID, Built
from tests.cli.commands import publisher, run, verify
from tests.support.bundles import source_of
from verifier.receipt import load_key, public_text, sign_receipt


@pytest.fixture
def receipt(copy: Built, tmp_path: Path) -> Path:
    path = tmp_path / "receipt.json"
    assert verify(copy, "--receipt", str(path), "--sign-key", str(tmp_path / "key"))[0] == 0
    return path


def submit(copy: Built, path: Path, envelope: bytes) -> tuple[int, str]:
    path.write_bytes(envelope)
    code, output = run("ledger", "submit", str(path), "--ledger", copy.ledger_url)
    assert "Traceback" not in output
    return code, output


def whole_run_verdicts(copy: Built) -> int:
    return sum(row.subject == "run" for row in open_ledger(copy.ledger_url, read_only=True).record(RUN_ID).verdicts)


def test_one_receipt_counts_once(copy: Built, receipt: Path) -> None:
    """Whoever may submit could otherwise make a hundred acceptances of one auditor's."""
    value = json.loads(honest := receipt.read_bytes())
    [signature] = value["signatures"]
    loose = signature["sig"][:-3] + chr(ord(signature["sig"][-3]) + 1) + "=="  # other spare bits, the same 64 bytes
    assert base64.b64decode(loose) == base64.b64decode(signature["sig"])
    twins = [value | {"signatures": [signature | change]} for change in ({"comment": 1}, {"sig": loose})]
    for twin in (value | {"comment": 1}, *twins):
        code, output = submit(copy, receipt, canonical_json(twin))
        assert code == 1 and "receipt" in output
    assert whole_run_verdicts(copy) == 0
    for _ in range(2):
        assert submit(copy, receipt, honest)[0] == 0
    assert whole_run_verdicts(copy) == 1


def test_a_verdict_needs_what_it_is_about(copy: Built, tmp_path: Path, receipt: Path) -> None:
    values, key = verify(copy)[1], load_key(tmp_path / "key")
    checkpoint = {"checkpoint": values["digests"]["checkpoint"]}
    for changes, reason in [
        ({"digests": checkpoint}, "receipt-verdict"),
        ({"log": {}}, "receipt-log"),
        ({"tasks": []}, "receipt-verdict"),
        ({"state": "rejected"}, "receipt-verdict"),
        ({"state": "sample passed"}, "receipt-verdict"),
        ({"accepted": False}, "receipt-verdict"),
        ({"tasks": [values["tasks"][0] | {"accepted": False}, *values["tasks"][1:]]}, "receipt-verdict"),
    ]:
        code, output = submit(copy, receipt, sign_receipt(values | changes, "x", key))
        assert code == 1 and reason in output, (changes, output)
    assert whole_run_verdicts(copy) == 0


def test_a_rejection_of_nothing_at_all_may_be_recorded(copy: Built, tmp_path: Path) -> None:
    """A log that was rolled back has no rows to speak of; its auditor's verdict is recorded all the same."""
    note = open_ledger(copy.ledger_url, read_only=True).newest_checkpoint()
    assert note
    head = note.note.split("\n")
    (tmp_path / "seen").write_text("\n".join([head[0], str(int(head[1]) + 1), *head[2:]]))
    code, verdict = verify(copy, "--seen", str(tmp_path / "seen"), "--record", "--sign-key", str(tmp_path / "key"))
    assert code == 1 and verdict["reason"].startswith("rollback") and whole_run_verdicts(copy) == 1


def test_a_receipt_of_another_run(copy: Built, tmp_path: Path, receipt: Path) -> None:
    """The other run is in the ledger, and the receipt's run id is exchanged for it by the receipt's own signer."""
    values, book = verify(copy)[1], open_ledger(copy.ledger_url)
    digest = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    book.append(RunRow("another", digest, "{}"))
    code, output = submit(copy, receipt, sign_receipt(values | {"run": "another"}, "x", load_key(tmp_path / "key")))
    assert code == 1 and "receipt-subject" in output
    assert book.record("another").verdicts == ()


def test_an_adapter_is_the_one_that_the_auditor_s_evidence_delivered(
    copy: Built, receipt: Path, rewrite: Callable[[Built, str], None], tmp_path: Path
) -> None:
    """The customer is shown a ledger of its own, in which another commitment is delivered and opens."""
    folder, key = tmp_path / "adapter", load_key(tmp_path / "key")
    export_adapter(folder, copy.manifest, RUN_ID, "base", copy.delivered)
    check = ("adapter", "check", str(folder), RUN_ID, "--ledger", copy.ledger_url, "--receipt")
    code, output = run(*check, str(receipt))
    assert code == 0 and "yes" in output and public_text(key) in output
    rejected = tmp_path / "rejected"
    rejected.write_bytes(sign_receipt(verify(copy)[1] | {"accepted": False, "state": "rejected", "delivered": {}}, "x", key))
    code, output = run(*check, str(rejected))
    assert code == 1 and "rejected" in output

    name = Name("delivered/0", 2)
    other = {"seed": fresh_seed(), "tensors": {tensor: values + 1 for tensor, values in copy.delivered[0][1].items()}}
    made = commit(select("auto"), commitment_layout(copy.manifest, name), other["tensors"], other["seed"])
    rewrite(copy, f"UPDATE commitments SET root = '{made.root.hex()}', commitment_id = '{made.id}' WHERE name = 'delivered/0'")
    export_adapter(tmp_path / "forged", copy.manifest, RUN_ID, "base", {0: (other["seed"], other["tensors"])})
    forged = ("adapter", "check", str(tmp_path / "forged"), RUN_ID, "--ledger", copy.ledger_url)
    assert run(*forged)[0] == 0  # the ledger alone does not show it
    code, output = run(*forged, "--receipt", str(receipt))
    assert code == 1 and "another adapter" in output


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_state_file_of_another_user_is_not_trusted(built: Built, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.touch(mode=0o600)
    os.chown(state, 12345, -1)
    code, output = run("verify", RUN_ID, *built.arguments, "--state", str(state))
    assert code == 2 and "another user" in output


# terminals ------------------------------------------------------------------------------------------------------------

FORGED = "\x1b[2J\x9b1m[/]\n\u2028ACCEPTED run y\u202e"


def is_harmless(output: str, *starts: str) -> bool:
    """The forged text is in the output, in one line, and nothing of it is obeyed."""
    lines = [line for line in output.split("\n") if "ACCEPTED" in line]
    return bool(lines) and all(line.isprintable() and line.startswith(starts) for line in lines)


def test_a_bundle_s_texts_on_a_terminal(built: Built, tmp_path: Path) -> None:
    source = source_of(built)
    (tmp_path / "bundle").write_bytes(replace(source, run_id=FORGED).bytes())
    code, output = run("verify", str(tmp_path / "bundle"))
    assert code == 1 and is_harmless(output, "REJECTED run ", "foreign-row at ") and "[/]" in output


def test_a_log_entry_s_texts_on_a_terminal(copy: Built, policy: Path, tmp_path: Path) -> None:
    log = publisher(copy)
    position = log.ledger.log_size()
    log.ledger.append(EventRow(RUN_ID, "noted", 0, FORGED))
    log.publish()
    (tmp_path / "entry").write_bytes(log.prove(position))
    code, output = run("log", "check", str(tmp_path / "entry"), "--policy", str(policy))
    assert code == 0 and is_harmless(output, "  detail: ")


def test_a_ledger_s_texts_on_a_terminal(copy: Built) -> None:
    book = open_ledger(copy.ledger_url)
    book.append(RunRow(f"[/]{FORGED}", "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a", "{}"))
    book.append(CommitmentRow(f"[/]{FORGED}", "[/x]", 0, 0, "[/y]", "", "", 1))
    book.append(EventRow(f"[/]{FORGED}", "noted", 0, '"\u009b1m[/]"'))
    code, output = run("ledger", "show", "[/]", "--ledger", copy.ledger_url)
    assert code == 0 and is_harmless(output, "run [/]") and "[/x]" in output and "\x9b" not in output
