"""The fuzzer's targets on its seeds and on inputs that once were findings; the guard notices what it is there for."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from protocol.encoding import canonical_json
from protocol.errors import VerificationError
from protocol.manifest import RunManifest
from protocol.statement import Name, commitment_layout, task_list
from tests.campaigns.fuzz import NAMES, Guard
from tests.campaigns.fuzz_targets import TARGETS, Finding, Honest, Target, proof, statement
from tests.cli.build_run import Built
from tests.support.bundles import KEYS, policy, source_of
from verifier.bundle import read_bundle
from verifier.evidence import verify_bundle
from verifier.receipt import load_key, sign_receipt
from verifier.report import report
from verifier.run import RunRecord, verify_run
from verifier.task import require_size


@pytest.fixture(scope="module")
def honest(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Honest]:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "run.bundle").write_bytes(source_of(built).bytes())
    (folder / "policy").write_text(KEYS.policy_text())
    verdict = verify_bundle(read_bundle(str(folder / "run.bundle")), policy())
    (folder / "receipt").write_bytes(sign_receipt(report(verdict), "fuzz", load_key(folder / "key.pem")))
    found = Honest(folder)
    yield found
    found.scratch.unlink()


def test_every_target_has_its_name() -> None:
    assert tuple(make.__name__ for make in TARGETS) == NAMES


@pytest.mark.parametrize("make", TARGETS, ids=NAMES)
def test_seeds_and_their_neighbours(honest: Honest, make: object) -> None:
    target: Target = make(honest)  # type: ignore[operator]
    rng = np.random.default_rng(len(target.name))
    seeds = target.seeds[:: len(target.seeds) // 12 + 1] if target.slow else target.seeds
    assert "honest" in {target.run(seed) for seed in seeds} or target.name in ("relation", "rows")
    for _ in range(4 if target.slow else 60):
        data = bytearray(target.seeds[int(rng.integers(len(target.seeds)))])
        for _ in range(int(rng.integers(1, 4))):
            at = int(rng.integers(len(data)))
            if rng.integers(2):
                data[at] = int(rng.integers(256))
            else:
                del data[at : at + int(rng.integers(1, 40))]
            data = data or bytearray(b"\0")
        assert target.run(bytes(data)) in ("", "honest")


FOUND = (  # (what a hostile manifest says, what it once cost)
    ({"steps": 1 << 14, "layers": 64, "window_steps": 1}, "a task list of 2^20 layers from 200 kB"),
    ({"steps": 1 << 14, "window_steps": 1}, "a task list as long as the loss tokens"),
)


@pytest.mark.parametrize("change", [change for change, _ in FOUND], ids=[cost for _, cost in FOUND])
def test_a_manifest_that_wants_more_tasks_than_there_are_roots(honest: Honest, change: dict[str, int]) -> None:
    value = json.loads(honest.record.manifest)
    value["model"]["layers"] = change.get("layers", 1)
    value |= {"steps": change["steps"], "window_steps": change["window_steps"], "loss_tokens": [1] * change["steps"]}
    value["commitments"] |= {f"base/{n}": "0" * 64 for n in range(change.get("layers", 1))}
    verdict = verify_run(RunRecord(canonical_json(value), honest.record.roots, honest.record.evidence))
    assert verdict.reason.startswith("missing-commitment at run")


@pytest.mark.parametrize(("key", "number", "kind"), [
    ("examples", 1 << 22, "embed"), ("examples", 1 << 22, "range"), ("sequence_length", 4096, "layer"), ("hidden", 1 << 17, "range"),
    ("ffn", 1 << 18, "layer"), ("vocab", 1 << 20, "head"),
])
def test_a_short_proof_of_a_large_statement_is_refused_before_it_is_built(honest: Honest, key: str, number: int, kind: str) -> None:
    """4 million examples once cost half a minute and 440 MB, with a proof of 1 MB."""
    value = json.loads(honest.record.manifest)
    owner = value["model"] if key in value["model"] else value
    owner[key] = number
    manifest = RunManifest.from_json(canonical_json(value))
    large = [t for t in task_list(manifest) if t.kind == kind]
    short = len(honest.evidence(honest.tasks["layer(1, 0)"]).proof)
    refused = 0
    for task in large:
        try:
            require_size(manifest, task, short)
        except VerificationError as error:
            refused += error.reason == "truncated"
    assert refused
    assert all(commitment_layout(manifest, Name(name)).identity(bytes(32)) for name in manifest.commitments)  # costs nothing


def test_no_honest_proof_is_refused_for_its_size(honest: Honest) -> None:
    for task in honest.tasks.values():
        require_size(honest.manifest, task, len(honest.evidence(task).proof))


def test_windows_have_an_end(honest: Honest) -> None:
    """The update's running sums are a triangle of steps: 4,096 of them once cost 400 MB."""
    value = json.loads(honest.record.manifest) | {"window_steps": 513}
    with pytest.raises(VerificationError, match="window_steps"):
        RunManifest.from_json(canonical_json(value))


@pytest.mark.parametrize("codec", ["utf-16", "utf-32", "utf-32-be", "utf-8-sig"])
def test_a_statement_in_another_encoding_imports_no_codec(honest: Honest, codec: str) -> None:
    """json guesses the encoding of bytes, and imports its codec: found by the fuzzer."""
    target = statement(honest)
    assert target.run(target.seeds[0].decode().encode(codec)) == ""


def test_targets_notice_a_verifier_that_accepts(honest: Honest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Controls: column checks and Merkle roots left out."""
    target = proof(honest)
    changed = target.seeds[0][:-1] + bytes([target.seeds[0][-1] ^ 1])
    assert target.run(changed) == ""
    monkeypatch.setattr("protocol.schedule.opening.merkle.root_from_proof", lambda *_: Anything())
    with pytest.raises(Finding, match="accepted"):
        target.run(changed)


class Anything(bytes):
    """Equal to every root."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = bytes.__hash__


GUARDED = """
import sys, pathlib
sys.path.insert(0, {root!r})
from tests.campaigns.fuzz import Guard
from tests.campaigns.fuzz_targets import Finding
guard = Guard(pathlib.Path("/nothing"))
def target(data):
    exec(data.decode(), {{}})
    return ""
code = compile({code!r}, "x", "exec")
def run(data):
    eval(code)
    return ""
try:
    guard.run(run, b"")
except (Finding, MemoryError) as error:
    print("noticed", type(error).__name__)
"""


@pytest.mark.parametrize("code", [
    "__import__('wave')", "__import__('pickle').loads(" + repr(pickle.dumps(Guard)) + ")", "__import__('os').system('true')",
    "open('/etc/hostname')", "__import__('socket').socket()", "bytearray(1 << 28)",
])
def test_the_guard_notices(code: str) -> None:
    """In a process of its own, because audit hooks stay."""
    done = subprocess.run([sys.executable, "-c", GUARDED.format(root=os.getcwd(), code=code)], capture_output=True, text=True, check=False)
    assert "noticed" in done.stdout, done.stderr
