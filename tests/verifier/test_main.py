"""`python -m verifier`: exit codes, what is printed, what is written, and what whoever mistypes is told."""

import hashlib
import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from protocol.statement import task_list
from tests.cli.build_run import RUN_ID, Built
from tests.support.bundles import KEYS, OTHER_KEYS, Source, zipped
from verifier.__main__ import main
from verifier.receipt import verify_receipt

BEACON = "0123456789abcdef" * 2


class Desk:
    """An auditor's folder with a bundle and a policy in it, and the command."""

    def __init__(self, folder: Path, bundle: bytes, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys
        self.put("run.bundle", bundle)
        self.put("policy", KEYS.policy_text().encode())

    def put(self, name: str, data: bytes) -> str:
        (self.folder / name).write_bytes(data)
        return str(self.folder / name)

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def __call__(self, *options: str) -> tuple[int, str, str]:
        """Exit code, output, errors."""
        self.capsys.readouterr()
        try:
            code = main([self.path("run.bundle"), *options])
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *self.capsys.readouterr()


@pytest.fixture
def desk(tmp_path: Path, honest: bytes, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(tmp_path, honest, capsys)


SAMPLE = ("--sample", "1", "--beacon", BEACON)


def test_an_honest_bundle_is_accepted_with_exit_code_0(desk: Desk, built: Built) -> None:
    code, out, err = desk("--policy", desk.path("policy"))
    lines, tasks = out.splitlines(), len(task_list(built.manifest))
    assert code == 0 and err == "" and lines[0] == f"ACCEPTED run {RUN_ID}"
    assert any(line.startswith(f"{tasks} of {tasks} tasks accepted, 1") and line.endswith("bits per proof") for line in lines)
    assert lines[-1].startswith("the log's checkpoint is signed as the policy demands")


def test_a_sample_is_drawn_as_asked_for(desk: Desk) -> None:
    code, out, _ = desk("--sample", "2", "--beacon", BEACON)
    assert code == 0 and out.startswith("SAMPLE PASSED") and f"2 of 10 tasks, drawn by beacon {BEACON}" in out
    assert "the log's signature was not checked" in out


@pytest.mark.parametrize("options", [
    ("--sample", "1"), ("--beacon", BEACON), ("--receipt", "x"), ("--sign-key", "x"), ("--receipt", "x", *SAMPLE),
    ("--sample", "1", "--receipt", "x", "--sign-key", "y"), ("--sample", "x", "--beacon", BEACON), ("another",), ("--polcy", "x"),
])
def test_options_that_belong_together(desk: Desk, options: tuple[str, ...]) -> None:
    code, out, err = desk(*options)
    assert code == 2 and out == "" and "usage: verilora-verify" in err


@pytest.mark.parametrize(("name", "data", "said"), [
    ("--expect", b"[1]", "no JSON object"), ("--expect", b'"seed"', "no JSON object"), ("--expect", b"[" * 100_000, "recursion"),
    ("--expect", b"seed: 7", "given: an order is JSON here"), ("--policy", b"nonsense\n", "line 1 of the policy"),
    ("--seen", b"x", "checkpoint-format"),
    ("--seen", OTHER_KEYS.sign(Source((), {}).checkpoint()), "checkpoint-signature"),
])
def test_files_that_cannot_be_used_are_a_usage_error(desk: Desk, name: str, data: bytes, said: str) -> None:
    options = [name, desk.put("given", data)] + (["--policy", desk.path("policy")] if name == "--seen" else [])
    code, out, err = desk(*options)
    assert code == 2 and out == "" and err.startswith("error: ") and said in err


def test_a_sample_of_none_and_a_beacon_that_is_none(desk: Desk) -> None:
    for options in (("--sample", "0", "--beacon", BEACON), ("--sample", "1", "--beacon", "00")):
        code, out, err = desk(*options)
        assert code == 2 and out == "" and err.startswith("error: a sample needs")


def test_a_key_that_others_can_read_is_a_usage_error(desk: Desk) -> None:
    (desk.folder / "key").write_bytes(b"")
    (desk.folder / "key").chmod(0o644)
    code, _, err = desk("--receipt", desk.path("receipt"), "--sign-key", desk.path("key"))
    assert code == 2 and "chmod 600" in err and not (desk.folder / "receipt").exists()


def test_files_that_are_not_there_or_cannot_be_written(desk: Desk) -> None:
    """Nothing about the evidence: exit code 3."""
    for options in (("--policy", desk.path("none")), ("--expect", desk.path("none"))):
        code, out, err = desk(*options)
        assert code == 3 and out == "" and err.startswith("error: ") and "none" in err
    code, out, err = desk(*SAMPLE, "--report", desk.path("policy"))  # a file where a folder should be
    assert code == 3 and out == "" and err.startswith("error: ") and "policy" in err
    (desk.folder / "run.bundle").unlink()
    code, out, err = desk()
    assert code == 3 and out == "" and err.startswith("error: ") and "run.bundle" in err


def test_what_is_no_bundle_is_rejected_and_reported(desk: Desk) -> None:
    desk.put("run.bundle", b"PK")
    code, out, _ = desk("--json", "--report", desk.path("report"), "--receipt", desk.path("receipt"), "--sign-key", desk.path("key"),
                        "--seen", desk.path("seen"))
    said = json.loads(out)
    assert code == 1 and said == json.loads((desk.folder / "report" / "report.json").read_text())
    assert said["run"] == "" and said["state"] == "rejected" and said["reason"].startswith("malformed")
    assert said["digests"] == {"checkpoint": hashlib.sha256(b"").hexdigest()}
    # there is no checkpoint that a receipt could be about, and none to remember
    assert not (desk.folder / "receipt").exists() and not (desk.folder / "seen").exists()


def test_the_order_is_compared(desk: Desk) -> None:
    code, out, _ = desk("--expect", desk.put("order", b'{"seed":8}'))
    assert code == 1 and out.splitlines()[1].startswith("order at seed") and out.splitlines()[2] == "not what was ordered"
    code, out, _ = desk("--expect", desk.put("order", b'{"seed":7}'), *SAMPLE)
    assert code == 0 and "1 values agree (seed)" in out


def test_the_signed_verdict_names_who_verified(desk: Desk) -> None:
    options = (*SAMPLE, "--receipt", desk.path("receipt"), "--sign-key", desk.path("key"))
    assert desk(*options)[0] == 0
    said = verify_receipt((desk.folder / "receipt").read_bytes())["predicate"]
    assert said["run"] == RUN_ID and said["state"] == "sample passed" and said["verifier"]["name"] == "verilora-verify"
    assert desk(*options, "--verifier", "Ada")[0] == 0
    again = verify_receipt((desk.folder / "receipt").read_bytes())["predicate"]
    assert again["verifier"] == said["verifier"] | {"name": "Ada"}  # the key was kept


def test_a_rejection_is_signed_too(desk: Desk) -> None:
    code, *_ = desk("--expect", desk.put("order", b'{"seed":8}'), "--receipt", desk.path("receipt"), "--sign-key", desk.path("key"))
    said = verify_receipt((desk.folder / "receipt").read_bytes())["predicate"]
    assert code == 1 and said["state"] == "rejected" and said["reason"].startswith("order at seed")


def test_the_checkpoint_seen_is_remembered_and_compared(desk: Desk, source: Source) -> None:
    seen, options = desk.folder / "seen", ("--policy", desk.path("policy"), "--seen", desk.path("seen"))
    assert "not compared with an earlier one" in desk(*SAMPLE, *options)[1]
    assert seen.read_bytes() == source.members()["checkpoint"]
    assert f"continues the one of {len(source.leaves)} entries seen before" in desk(*SAMPLE, *options)[1]
    # a log that was rolled back is rejected, and does not take the place of what was seen
    desk.put("run.bundle", replace(source, size=len(source.leaves) - 1, shown=(0,)).bytes())
    code, out, _ = desk(*options)
    assert code == 1 and "rollback" in out and seen.read_bytes() == source.members()["checkpoint"]


def test_memory_is_given_in_mebibytes(desk: Desk, source: Source) -> None:
    """A row between one MiB and two, in the place of a run's."""
    row = {"run_id": RUN_ID, "manifest_digest": "", "manifest": "x" * (3 << 19)}
    desk.put("run.bundle", replace(source, leaves=({"table": "runs", "row": row},), objects={}).bytes())
    for mebibytes, reason in (("1", "size"), ("2", "manifest-digest")):
        code, out, _ = desk("--memory", mebibytes)
        assert code == 1 and out.splitlines()[1].startswith(reason)


def test_the_module_is_a_program_and_ends_with_the_verdict_s_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run.bundle").write_bytes(zipped({}))
    monkeypatch.setattr(sys, "argv", ["verifier", str(tmp_path / "run.bundle")])
    monkeypatch.delitem(sys.modules, "verifier.__main__")
    with pytest.raises(SystemExit) as end:
        runpy.run_module("verifier", run_name="__main__")
    assert end.value.code == 1
