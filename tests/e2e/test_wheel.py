"""The auditor's wheel: built, installed into an empty environment, run on a bundle without network, prover or project.

The environment is a virtual environment without pip whose only packages are the wheel, NumPy and cryptography. A hook ends the process
on any socket, subprocess, unpickling or database event. Memory is the peak of the child process.
"""

import hashlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from storage.bundle import export_bundle
from storage.checkpoint import load_keys
from storage.ledger import open_ledger
from storage.log import LogPublisher
from storage.object_store import open_object_store
from storage.private import open_private_store
from tests.cli.build_run import RUN_ID, Built
from tests.support.bundles import Source, source_of, zipped
from verifier.receipt import source_digest, verify_receipt

ROOT = Path(__file__).resolve().parents[2]
DEPENDENCIES = ("numpy", "cryptography", "cffi", "pycparser")
MIB = 1 << 20

# events that an auditor's program has no business with; os.fork and os.exec would be subprocesses too
GUARD = """
import sys
FORBIDDEN = ("socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.startfile", "pickle.find_class",
             "sqlite3.", "urllib.", "http.", "ftplib.", "smtplib.", "webbrowser.", "shutil.")
def hook(event, arguments):
    if event.startswith(FORBIDDEN):
        sys.stderr.write("forbidden: " + event + "\\n")
        sys.stderr.flush()
        import os
        os._exit(97)
sys.addaudithook(hook)
"""
RUN = """
import re, sys
from verifier.__main__ import main
code = main(sys.argv[1:])
own = {name.split(".")[0] for name, module in sys.modules.items() if "site-packages" in (getattr(module, "__file__", None) or "")}
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])  # getrusage would count the parent's, before exec
sys.stderr.write("packages: %s\\npeak: %d\\n" % (sorted(own), peak))
sys.exit(code)
"""


class Auditor:
    """An empty environment with the wheel, and nothing of the project but the wheel."""

    def __init__(self, folder: Path) -> None:
        made = subprocess.run(
            ["make", "-o", ".install-stamp", "wheel", f"DIST={folder / 'dist'}", f"BIN={Path(sys.executable).parent}"],
            cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
        )
        assert made.returncode == 0, made.stderr
        [self.wheel] = (folder / "dist").glob("verilora_verifier-*.whl")
        venv.create(folder / "empty", with_pip=False, symlinks=True)
        self.python = folder / "empty" / "bin" / "python"
        [self.site] = (folder / "empty" / "lib").glob("python*/site-packages")
        for name in DEPENDENCIES:
            self._link(name)
        install = [sys.executable, "-m", "pip", "--python", str(self.python), "install", "--quiet", "--no-index", str(self.wheel)]
        subprocess.run(install, check=True, timeout=120, capture_output=True)
        (self.site / "sitecustomize.py").write_text(GUARD)
        self.folder = folder / "work"
        self.folder.mkdir()

    def _link(self, name: str) -> None:
        """What an installed distribution brought along, by symbolic links."""
        found = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            os.symlink(found.locate_file(top), self.site / top)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.python, "-c", RUN, *arguments],
            cwd=self.folder, env={"PATH": ""}, capture_output=True, text=True, timeout=120, check=False,
        )

    def judge(self, data: bytes, *options: str) -> tuple[int, str, int]:
        """Exit code, reason and peak memory in bytes."""
        (self.folder / "run.bundle").write_bytes(data)
        done = self.run("run.bundle", "--json", *options)
        assert "Traceback" not in done.stderr and "forbidden" not in done.stderr, done.stderr
        return done.returncode, json.loads(done.stdout)["reason"], int(done.stderr.rpartition("peak: ")[2]) * 1024


@pytest.fixture(scope="module")
def auditor(tmp_path_factory: pytest.TempPathFactory) -> Auditor:
    return Auditor(tmp_path_factory.mktemp("auditor"))


@pytest.fixture(scope="module")
def source(built: Built) -> Source:
    return source_of(built)


@pytest.fixture(scope="module")
def policy(auditor: Auditor, source: Source) -> str:
    path = auditor.folder / "policy"
    path.write_text(source.keys.policy_text())
    return str(path)


def test_the_wheel_holds_protocol_and_verifier_unchanged(auditor: Auditor) -> None:
    with zipfile.ZipFile(auditor.wheel) as archive:
        files = {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}
        metadata = next(archive.read(name).decode() for name in archive.namelist() if name.endswith("METADATA"))
    ours = [path for name in ("protocol", "verifier") for path in (ROOT / name).rglob("*.py")]
    assert files == {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in ours}
    required = [re.match("Requires-Dist: ([a-z]+)", line)[1] for line in metadata.splitlines() if line.startswith("Requires-Dist")]  # type: ignore[index]
    assert sorted(required) == ["cryptography", "numpy"]


def test_nothing_else_of_the_project_can_be_imported(auditor: Auditor) -> None:
    code = "import importlib.util as u; print([n for n in {} if u.find_spec(n)])"
    names = ["prover", "storage", "tasks", "flows", "cli", "api", "migrations", "tests", "torch", "sqlalchemy", "prefect", "boto3", "pip"]
    done = subprocess.run([auditor.python, "-c", code.format(names)], cwd=auditor.folder, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_guard_works(auditor: Auditor) -> None:
    for code in ("import socket; socket.socket()", "import subprocess; subprocess.run(['true'])", "import os; os.system('true')",
                 "import pickle; pickle.loads(b'cos\\nsystem\\n.')"):
        assert subprocess.run([auditor.python, "-c", code], capture_output=True, check=False).returncode == 97, code


def test_an_exported_bundle_is_accepted_offline(auditor: Auditor, built: Built) -> None:
    file, report = auditor.folder / "exported.bundle", auditor.folder / "report"
    log = LogPublisher(open_ledger(built.ledger_url, read_only=True), open_object_store(built.objects_url, read_only=True))
    rows, proofs = export_bundle(file, log, RUN_ID)
    keys = load_keys(open_private_store(f"file:{built.folder / 'private'}"))
    assert keys is not None and rows > proofs == 10
    (auditor.folder / "own-policy").write_text(keys.policy_text())
    (auditor.folder / "order.json").write_text('{"seed": 7, "model": {"layers": 1}}')
    done = auditor.run(
        "exported.bundle", "--policy", "own-policy", "--seen", "seen", "--expect", "order.json", "--report", "report",
        "--receipt", "receipt.json", "--sign-key", "key",
    )
    assert done.returncode == 0, done.stderr
    assert "ACCEPTED" in done.stdout and "2 values agree" in done.stdout and "signed as the policy demands" in done.stdout
    packages = done.stderr.partition("packages: ")[2].partition("\n")[0]
    allowed = {"numpy", "cryptography", "protocol", "verifier", "sitecustomize", "_cffi_backend"}
    assert set(json.loads(packages.replace("'", '"'))) <= allowed
    assert (auditor.folder / "seen").read_bytes() == log.newest_note()
    assert {path.name for path in report.iterdir()} == {"report.html", "report.json"}
    said = verify_receipt((auditor.folder / "receipt.json").read_bytes())
    assert said["predicate"]["accepted"] and said["predicate"]["verifier"]["source"] == source_digest()
    manifest = log.ledger.run(RUN_ID).manifest.encode()
    assert {"name": "manifest", "digest": {"sha256": hashlib.sha256(manifest).hexdigest()}} in said["subject"]
    again = auditor.run("exported.bundle", "--policy", "own-policy", "--seen", "seen")
    assert again.returncode == 0


def test_the_console_script_verifies(auditor: Auditor, source: Source, policy: str) -> None:
    (auditor.folder / "script.bundle").write_bytes(source.bytes())
    script = auditor.python.parent / "verilora-verify"
    done = subprocess.run([script, "script.bundle", "--policy", policy], cwd=auditor.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "10 of 10 tasks accepted" in done.stdout, done.stderr


def test_tampered_bundles_are_rejected_within_256_megabytes(auditor: Auditor, source: Source, policy: str) -> None:
    members = source.members()
    digest = next(iter(source.objects))
    proof = bytearray(source.objects[digest])
    proof[len(proof) // 2] ^= 1
    first_row = members["rows.jsonl"].partition(b"\n")[2]
    bomb = zipped(members | {"objects/" + "0" * 64: bytes(1 << 27)}, zipfile.ZIP_DEFLATED)
    cases = {
        "damaged-object": zipped(members | {f"objects/{digest}": bytes(proof)}),
        "missing-member": zipped({name: data for name, data in members.items() if digest not in name}),
        "missing-row": zipped(members | {"rows.jsonl": first_row}),
        "checkpoint-format": zipped(members | {"checkpoint": b"x" * (1 << 24)}),
        "bundle-member": bomb,
        "size": zipped(members | {f"objects/{digest}": bytes(65 << 20)}),
        "non-canonical": zipped(members | {"rows.jsonl": b" " * 1000 + members["rows.jsonl"]}),
        "malformed": zipped(members | {"rows.jsonl": b"[" * (1 << 25)}),
    }
    for reason, data in cases.items():
        code, said, peak = auditor.judge(data, "--policy", policy)
        assert code == 1 and reason in said, (reason, said)
        assert peak <= 256 * MIB, (reason, peak)


def test_exit_codes_of_usage_and_absent_files(auditor: Auditor, source: Source, policy: str) -> None:
    (auditor.folder / "run.bundle").write_bytes(source.bytes())
    (auditor.folder / "bad").write_bytes(b"{")
    (auditor.folder / "null").write_bytes(b"null")
    for options, expected in [
        (("none.bundle",), 3), (("run.bundle", "--policy", "none"), 3), (("run.bundle", "--policy", "bad"), 2),
        (("run.bundle", "--expect", "bad"), 2), (("run.bundle", "--expect", "null"), 2), (("run.bundle", "--sample", "2"), 2),
        (("run.bundle", "--sample", "2", "--beacon", "x"), 2), (("run.bundle", "--receipt", "r"), 2), (("run.bundle", "--no-such"), 2),
        ((), 2), (("run.bundle", "--policy", policy, "--sample", "2", "--beacon", "ab" * 16), 0),
        (("run.bundle", "--policy", policy, "--expect", "order-2"), 3),
    ]:
        done = auditor.run(*options)
        assert done.returncode == expected and "Traceback" not in done.stderr, (options, done.returncode, done.stderr)
