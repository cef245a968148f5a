"""Secrets are nowhere but in the private store: byte scan after a run, after a crash, and after errors.

The scan looks for the secrets themselves (runs of 8 values of every private tensor, seeds, the dataset's text) in the encodings in which
they would leak: decimal text, int16/32/64 and float32 in both byte orders, hexadecimal, base64. It reads every file that the run wrote
outside the private store (ledger, objects, orchestrator's database and results, temporary files, home folder), its output, and what
other users see of its processes. Controls plant a canary in a copy and must be found.
"""

import base64
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest

from protocol.statement import Name
from storage.ledger import open_ledger
from storage.private import open_private_store
from tasks.deliver import load_committed, secret_name
from tasks.record import recorded_root
from tests.support.project import CANARY, RUN_YAML, Finished, environment, project

WINDOW = 8  # values of a tensor that make a canary
TYPES = ("<i2", ">i2", "<i4", ">i4", "<i8", ">i8", "<f4", ">f4")
Finding = tuple[str, str]  # (what, where)


def encodings(values: np.ndarray) -> Iterator[bytes]:
    """A run of integers in every form in which it might be written."""
    plain = [str(int(v)) for v in values]
    for separator in (", ", ",", " ", "\n"):
        yield separator.join(plain).encode()
    for kind in TYPES:
        if "i2" not in kind or np.abs(values).max() < 1 << 15:
            yield from blobs(values.astype(kind).tobytes())


def blobs(data: bytes) -> Iterator[bytes]:
    """Bytes as they are, in hexadecimal, and the part of base64 that does not depend on where they begin."""
    yield data
    yield data.hex().encode()
    yield data.hex().upper().encode()
    for shift in range(3):
        whole = base64.b64encode(data[shift : shift + (len(data) - shift) // 3 * 3])
        yield whole


def telling(tensor: np.ndarray) -> Iterator[np.ndarray]:
    """Some runs that do not occur by chance: at least 6 different values, not a count."""
    flat = tensor.reshape(-1)
    starts = [n for n in range(0, len(flat) - WINDOW + 1, WINDOW) if len(set(flat[n : n + WINDOW].tolist())) > 5]
    for start in starts[:: max(1, len(starts) // 4)][:4]:
        run = flat[start : start + WINDOW]
        if np.abs(np.diff(run, 2)).max() and np.abs(run).max() > 8:
            yield run


@dataclass(frozen=True)
class Canaries:
    """Needles by what they are; `find` scans with all of them at once."""

    needles: dict[bytes, str]

    @cached_property
    def threes(self) -> np.ndarray:
        """Which first three bytes a needle may have."""
        table = np.zeros(1 << 24, dtype=bool)
        table[[needle[0] | needle[1] << 8 | needle[2] << 16 for needle in self.needles]] = True
        return table

    @cached_property
    def by_start(self) -> dict[int, list[bytes]]:
        """By the first eight bytes, as an integer."""
        out: dict[int, list[bytes]] = {}
        for needle in self.needles:
            out.setdefault(int.from_bytes(needle[:8], "little"), []).append(needle)
        return out

    @cached_property
    def eights(self) -> np.ndarray:
        return np.sort(np.array(list(self.by_start), dtype=np.uint64))

    def find(self, data: bytes) -> set[str]:
        """Names of the secrets that occur."""
        octets, found = np.frombuffer(data, dtype=np.uint8), set[str]()
        if len(octets) < 8:
            return found
        wide = octets.astype(np.uint32)
        places = np.flatnonzero(self.threes[wide[:-7] | wide[1:-6] << 8 | wide[2:-5] << 16])
        words = sum((octets[places + k].astype(np.uint64) << np.uint64(8 * k) for k in range(8)), np.zeros(len(places), dtype=np.uint64))
        for at in places[np.isin(words, self.eights)].tolist():
            for needle in self.by_start[int.from_bytes(data[at : at + 8], "little")]:
                if data.startswith(needle, at):
                    found.add(self.needles[needle])
        return found


def canaries(folder: Path, run_ids: Iterable[str]) -> Canaries:
    """Everything secret that the private store of a project holds, and the dataset's text."""
    private = open_private_store(f"file:{folder}/var/private")
    needles: dict[bytes, str] = {}
    for text in (CANARY, CANARY.split()[0]):
        for form in (*blobs(text.encode()), text.encode("utf-16-le")):
            needles[form] = f"text {text!r}"
    for run_id in run_ids:
        prefix = f"runs/{run_id}/commitments/"
        parts = {name: re.fullmatch(r"(.+)/(start|\d+)-([0-9a-f]{16})", name.removeprefix(prefix)) for name in private.names(prefix)}
        start = {found[1]: found[3] for found in parts.values() if found and found[2] == "start"}
        for name, found in parts.items():
            assert found, name
            this = Name(found[1], -1 if found[2] == "start" else int(found[2]))
            roots = {str(Name(base)): root for base, root in start.items()} | {str(this): found[3]}
            seed, tensors = load_committed(private, run_id, this, lambda n, roots=roots: roots[str(n)])
            for form in blobs(seed):
                needles[form] = f"seed of {name}"
            for tensor, values in tensors.items():
                for run in telling(values):
                    for form in encodings(run):
                        needles[form] = f"{name} {tensor}"
    return Canaries({needle: what for needle, what in needles.items() if len(needle) >= 8})


class Watch:
    """Runs a command with its own home and temporary folder, and keeps what others can see of its processes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seen = folder, dict[str, bytes]()
        self.env = {name: value for name, value in environment(folder).items() if not name.startswith("PREFECT_")}

    def run(self, *arguments: str, kill_when: str = "", **more: str) -> "subprocess.Popen[bytes]":
        """Run to the end, or until `kill_when`, a glob under var/, matches: then SIGKILL to all of its processes."""
        number = len(list(self.folder.glob("out-*")))
        with (self.folder / f"out-{number}").open("wb") as out:
            process = subprocess.Popen([sys.executable, *arguments], cwd=self.folder, env=self.env | more, stdout=out, stderr=out,
                                       start_new_session=True)
            try:
                deadline = time.monotonic() + 240
                while process.poll() is None and time.monotonic() < deadline:
                    self._look(process.pid)
                    if kill_when and next((self.folder / "var").glob(kill_when), None):
                        break
                    time.sleep(0.05)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return process

    def _look(self, session: int) -> None:
        for place in Path("/proc").glob("[0-9]*"):
            try:
                if os.getsid(int(place.name)) == session:
                    for part in ("cmdline", "environ"):
                        self.seen[f"{part} of {place.name} {(place / 'comm').read_text().strip()}"] = (place / part).read_bytes()
            except (OSError, ValueError):
                continue  # it has just ended


def places(folder: Path) -> Iterator[Path]:
    """Every file of the project outside the private store and the inputs."""
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        if path.is_file() and parts[:2] != ("var", "private") and parts[0] != "model" and parts != ("data.jsonl",):
            yield path


def scan(folder: Path, secrets: Canaries, seen: dict[str, bytes]) -> set[Finding]:
    found = {(what, str(path.relative_to(folder))) for path in places(folder) for what in secrets.find(path.read_bytes())}
    return found | {(what, where) for where, data in seen.items() for what in secrets.find(data)}


def run_ids(folder: Path) -> list[str]:
    return [path.name for path in (folder / "var" / "private" / "runs").iterdir()]


@pytest.fixture(scope="module")
def secrets(finished: Finished) -> Canaries:
    return canaries(finished[0], run_ids(finished[0]))


def test_nothing_is_found_after_a_full_disk_a_kill_and_the_run(finished: Finished, secrets: Canaries) -> None:
    folder, _, _ = finished
    assert not scan(folder, secrets, {})
    kinds = {what.split("/")[3] for what in secrets.needles.values() if what.startswith("runs/")}
    assert kinds == {"base", "dataset", "delivered", "dx", "embedding", "head", "state", "x"} and len(secrets.needles) > 1000
    read = {path.relative_to(folder).parts[:2] for path in places(folder)}
    assert {("var", "ledger.db"), ("var", "objects"), ("var", "prefect"), ("out-0.log",), ("killed.log",)} <= read


def test_secret_files_are_their_owners(finished: Finished) -> None:
    """The private store after a kill, temporary files of the killed process included."""
    root = finished[0] / "var" / "private"
    everything = [root, *root.rglob("*")]
    assert len(everything) > 20
    assert all(stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600) for path in everything)


@pytest.mark.attacks
def test_nothing_is_found_with_every_log_there_is(tmp_path: Path) -> None:
    """Killed while it trains, continued, verified, exported, with tracebacks and Prefect's log; and what others see of the processes."""
    folder = project(tmp_path / "run")
    watch = Watch(folder)
    assert watch.run("-m", "cli", "run", "run.yaml", "--debug", kill_when="private/runs/*/windows/1").returncode == -signal.SIGKILL
    (run,) = run_ids(folder)
    assert not scan(folder, canaries(folder, [run]), watch.seen)
    commands = (
        ("run", "run.yaml", "--debug"), ("verify", run, "--report", "report", "--receipt", "receipt.json", "--sign-key", "home/key.pem"),
        ("ledger", "export", run, "run.bundle"), ("ledger", "show", run, "--json"), ("fsck",),
    )
    for command in commands:
        assert watch.run("-m", "cli", *command).returncode == 0, command
    assert not scan(folder, canaries(folder, [run]), watch.seen)
    assert any(where.startswith("environ") for where in watch.seen) and any(where.startswith("cmdline") for where in watch.seen)
    assert stat.S_IMODE((folder / "home" / "key.pem").stat().st_mode) == 0o600


@pytest.mark.parametrize("where", ["log", "error", "database", "result", "object", "temporary file", "environment"])
def test_a_planted_canary_is_found(finished: Finished, secrets: Canaries, where: str, tmp_path: Path) -> None:
    """Controls, one for each kind of place and with another encoding each."""
    (run,) = run_ids(finished[0])
    root = recorded_root(open_ledger(f"sqlite:///{finished[0]}/var/ledger.db"), run)
    seed, tensors = load_committed(open_private_store(f"file:{finished[0]}/var/private"), run, Name("delivered/0", 2), root)
    values = next(run for run in telling(tensors["down_proj.lora_A"]))
    forms = {
        "log": f"adapter {values.tolist()}".encode(), "error": b"ValueError: array(" + values.astype(">i4").tobytes(),
        "database": b"x" * 4093 + values.astype("<i8").tobytes(), "result": json.dumps(values.tolist(), separators=(",", ":")).encode(),
        "object": values.astype("<f4").tobytes(), "temporary file": values.astype("<i2").tobytes().hex().encode(),
        "environment": b"SEED=" + base64.b64encode(b"-" + seed),
    }
    folder = tmp_path / "project"
    (folder / "var" / "objects").mkdir(parents=True)
    target = {"log": "out-0", "error": "out-1", "database": "var/ledger.db", "result": "var/prefect", "object": "var/objects/x",
              "temporary file": "tmp"}.get(where)
    if target is None:
        assert scan(folder, secrets, {"environ of 1": forms[where]})
        return
    assert not scan(folder, secrets, {})
    (folder / target).write_bytes(b"before" + forms[where] + b"after")
    name = Name("delivered/0", 2)
    assert scan(folder, secrets, {}) == {(f"{secret_name(run, name, root(name))} down_proj.lora_A", target)}


# credentials -------------------------------------------------------------------------------------------------------------

PASSWORD = "zq7-canary-password"


@pytest.mark.parametrize("storage", [
    f"ledger: postgresql+psycopg://verilora:{PASSWORD}@127.0.0.1:9/ledger", f"ledger: mysql://verilora:{PASSWORD}@127.0.0.1/x",
    f"ledger: 'postgresql+psycopg://verilora:{PASSWORD}@127.0.0.1:port/ledger'",
    "objects: s3://no-such-bucket/x?endpoint=http://127.0.0.1:9&region=eu-1",
], ids=["dsn", "driver", "port", "bucket"])
def test_credentials_are_in_no_message(tmp_path: Path, storage: str) -> None:
    """Tracebacks included."""
    folder = project(tmp_path / "p")
    (folder / "run.yaml").write_text(RUN_YAML + f"storage: {{{storage}}}\n")
    more = {"PGPASSWORD": PASSWORD, "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": PASSWORD,
            "AWS_SESSION_TOKEN": PASSWORD + "t"}
    watch = Watch(folder)
    done = watch.run("-m", "cli", "run", "run.yaml", "--debug", **more)
    out = (folder / "out-0").read_text()
    assert done.returncode != 0 and re.search("error|Error", out)
    assert PASSWORD not in out
    written = [path for path in places(folder) if path.name != "run.yaml" and PASSWORD.encode() in path.read_bytes()]
    assert not written
    shutil.rmtree(folder)
