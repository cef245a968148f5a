"""A run about which nothing is proved: manifest, roots of zeros, the ids, statements and rows that follow; each can be a lie.

A toy so small that checks of rows and statements, which come before any proof, take milliseconds.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from protocol.encoding import canonical_json
from protocol.errors import VerificationError
from protocol.manifest import RunManifest, base_commitments
from protocol.soundness import Soundness
from protocol.statement import BUDGETS, Task, commitment_layout, statement_content, statement_id, task_list
from tests.support.bundles import Leaf, consistency, encode, hash_of, path, root
from tests.toy import EVEN, toy
from verifier.bundle import Bundle, LoggedRow
from verifier.evidence import Rows, _Stored, check_task_rows, verify_bundle
from verifier.log import leaf_hash
from verifier.note import Checkpoint
from verifier.run import Job, TaskVerdict
from verifier.task import Evidence, verify_task


def refused(reason: str, check: Callable[[], object]) -> VerificationError:
    """The rejection that `check` must end in."""
    with pytest.raises(VerificationError) as caught:
        check()
    assert caught.value.reason == reason, caught.value
    return caught.value


def manifest() -> RunManifest:
    draft = toy(sizes=EVEN, target_modules=("q_proj",), steps=1, window_steps=1, batch_size=1, sequence_length=4, examples=2).manifest
    draft = replace(draft, profile="goldilocks-2^10", budgets=dict.fromkeys(BUDGETS, 2))
    ids = {str(n): commitment_layout(draft, n).identity(bytes(32)) for t in task_list(draft) for _, n in t.commitments}
    return replace(draft, commitments={name: ids[name] for name in base_commitments(draft.model)})


class World:
    """A run about which nothing is proved: manifest, roots of zeros, ids and statements."""

    def __init__(self) -> None:
        self.manifest = manifest()
        self.names = {str(n): n for t in task_list(self.manifest) for _, n in t.commitments}
        self.roots = dict.fromkeys(self.names, bytes(32))
        self.ids = {text: commitment_layout(self.manifest, n).identity(bytes(32)) for text, n in self.names.items()}

    def task(self, kind: str) -> Task:
        return next(t for t in task_list(self.manifest) if t.kind == kind)

    def content(self, kind: str, **published: list[int]) -> bytes:
        task = self.task(kind)
        arrays = {name: np.array(v, dtype=np.int64) for name, v in published.items()}
        return statement_content(self.manifest, task, task.graph(self.manifest).digest(), self.ids, arrays)

    def verify(self, kind: str, content: bytes, size: int = 1 << 20, **change: Any) -> None:
        given = {"manifest": self.manifest, "roots": self.roots, "ids": self.ids} | change
        verify_task(given["manifest"], self.task(kind), given["roots"], given["ids"], Evidence(content, bytes(size)))

    def rows(self) -> Rows:
        commitments = {
            text: {
                "name": n.base,
                "window": n.window,
                "layer": int(n.base.partition("/")[2] or -1),
                "root": "00" * 32,
                "budget": 2,
                "commitment_id": self.ids[text],
                "geometry": canonical_json(commitment_layout(self.manifest, n).geometry()).decode(),
            }
            for text, n in self.names.items()
        }
        run = {"run_id": self.manifest.run_id, "manifest": self.manifest.to_json().decode()}
        return Rows(Checkpoint("o", 0, b""), run, commitments, {}, {}, ())

    def stored(self, **row: Any) -> Evidence:
        good = {"object_digest": hashlib.sha256(b"proof").hexdigest(), "size": 5}
        return _Stored(replace(self.rows(), proofs={"s": good | row}, statements={"s": {"content": ""}}), lambda _: b"proof")["s"]

    def judged(self, claimed: object, **row: Any) -> None:
        item = SimpleNamespace(statement_id="s", task=self.task("embed"))
        statement = {"kind": "embed", "window": 0, "layer": -1, "part": 0} | row
        proof = {"soundness": canonical_json(claimed).decode()}
        check_task_rows(replace(self.rows(), statements={"s": statement}, proofs={"s": proof}), item, SURE)  # type: ignore[arg-type]

    def bundle(self, **change: Any) -> Bundle:
        leaf = canonical_json({"table": "verdicts", "row": {"run_id": "r"}})
        return replace(Bundle("r", signed(Checkpoint("o", 1, leaf_hash(leaf))), 0, (), [LoggedRow(0, leaf, ())], lambda _: b""), **change)

    def leaves(self) -> list[Leaf]:
        """The rows of a ledger in which every statement has a proof, the same five bytes."""
        rows, run = self.rows(), {"run_id": self.manifest.run_id}
        leaves = [{"table": "runs", "row": {**rows.run, "manifest_digest": hashlib.sha256(rows.manifest).hexdigest()}}]
        leaves += [{"table": "commitments", "row": {**row, **run}} for row in rows.commitments.values()]
        for task in task_list(self.manifest):
            place = {name: getattr(task, name) for name in ("kind", "window", "layer", "part")}
            statement = {"statement_id": statement_id(self.manifest, task)}
            leaves.append({"table": "statements", "row": run | statement | place | {"content": "{}"}})
            proof = {"object_digest": hashlib.sha256(b"proof").hexdigest(), "size": 5, "prover": "p", "seconds": "1"}
            leaves.append({"table": "proofs", "row": statement | proof | {"soundness": canonical_json(SURE.to_json()).decode()}})
        return leaves

    def reject(self, bundle: Bundle, **options: Any) -> None:
        """`verify_bundle` returns its rejections: as an exception again, from the place that it names."""
        verdict = verify_bundle(bundle, **options)
        reason = verdict.reason.split(" at ")[0]
        raise Returned(reason)


SURE = Soundness({"queries": 101.0}, 100.5)


def signed(checkpoint: Checkpoint) -> bytes:
    """A note with a signature that nobody asks for."""
    return checkpoint.body() + f"\n— {checkpoint.origin} AAAAAAAA\n".encode()


def logged(leaves: Sequence[Leaf], run_id: str, shown: Sequence[int] | None = None, since: int = 0) -> Bundle:
    """A bundle of these rows, or of some of them, in a log of their own."""
    hashes = [hash_of(encode(leaf)) for leaf in leaves]
    rows = [LoggedRow(n, encode(leaves[n]), tuple(path(n, hashes))) for n in (range(len(leaves)) if shown is None else shown)]
    chain = tuple(consistency(since, hashes)) if since else ()
    return Bundle(run_id, signed(Checkpoint("o", len(leaves), root(hashes))), since, chain, rows, lambda _: b"proof")


def believed(jobs: Iterable[Job]) -> Iterator[TaskVerdict]:
    """In place of the verification of proofs, for tests of everything else."""
    return (TaskVerdict(job.task, statement_id(job.manifest, job.task), True, "", SURE, {}) for job in jobs)


class Returned(Exception):
    """A reason that verify_bundle itself gives."""
