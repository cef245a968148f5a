"""What an earlier verification already accepted, so that an interrupted one goes on where it was.

A file of JSON lines {"key", "sources", "total_bits", "published"}, one for each accepted task, appended and flushed as verdicts come.
key = SHA-256 over everything that the verdict on a task is a function of: the verifier's own source, manifest, task, roots of
its commitments, statement and proof. So whatever changes is verified again.

The file is not authenticated: it is trusted as its owner's own notes are, and has mode 600. Whoever can write it can make a later
verification of theirs accept; give nobody else's file. Called by tasks/verify.py.
"""

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from protocol.encoding import canonical_json
from protocol.soundness import Soundness
from protocol.statement import statement_id
from verifier.receipt import source_digest
from verifier.run import Job, TaskVerdict

Spread = Callable[[Iterable[Job]], Iterable[TaskVerdict]]


class StateError(ValueError):
    """A state file that cannot be used."""


class Accepted:
    """The tasks that a state file says were accepted; created if absent."""

    def __init__(self, path: Path) -> None:
        self._verifier = source_digest()
        self._found: dict[str, dict[str, Any]] = {}
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._file = os.fdopen(handle, "r+b")
        status = os.fstat(handle)
        if stat.S_IMODE(status.st_mode) & 0o077:
            raise StateError(
                f"{path} is open to other users (mode {stat.S_IMODE(status.st_mode):o}), so it cannot be trusted: run chmod 600 {path}")
        if status.st_uid != os.geteuid():
            raise StateError(f"{path} belongs to another user, so it cannot be trusted: name another file, which is then created")
        data = self._file.read()
        whole = data.rfind(b"\n") + 1  # a verification that was killed may have left half a line
        try:
            self._found = {value["key"]: value for value in map(json.loads, data[:whole].splitlines())}
        except (ValueError, KeyError, TypeError):
            raise StateError(f"{path} is no state file of `verilora verify`: name another one, which is then created") from None
        if data and not whole and not data.startswith(b'{"key"'):
            raise StateError(f"{path} is no state file of `verilora verify`: name another one, which is then created")
        self._file.truncate(whole)

    def __len__(self) -> int:
        return len(self._found)

    def spread(self, jobs: Iterable[Job], spread: Spread) -> Iterator[TaskVerdict]:
        """Verdicts on `jobs`: those known, and the others from `spread`, remembered if they are accepted."""
        keys: dict[str, str] = {}
        known: list[TaskVerdict] = []

        def unknown() -> Iterator[Job]:
            for job in jobs:
                key = self._key(job)
                if key in self._found:
                    known.append(self._verdict(job, self._found[key]))
                else:
                    keys[statement_id(job.manifest, job.task)] = key
                    yield job

        for verdict in spread(unknown()):
            if verdict.accepted:
                self._add(keys[verdict.statement_id], verdict)
            yield verdict
            while known:
                yield known.pop()
        yield from known

    def _key(self, job: Job) -> str:
        parts = [
            self._verifier, statement_id(job.manifest, job.task), [[name, root.hex()] for name, root in sorted(job.roots.items())],
            hashlib.sha256(job.evidence.content).hexdigest(), hashlib.sha256(job.evidence.proof).hexdigest(),
        ]
        return hashlib.sha256(canonical_json(parts)).hexdigest()

    def _verdict(self, job: Job, value: dict[str, Any]) -> TaskVerdict:
        published = {name: np.array(flat, dtype=np.int64) for name, flat in value["published"].items()}
        soundness = Soundness(value["sources"], value["total_bits"])
        return TaskVerdict(job.task, statement_id(job.manifest, job.task), True, "", soundness, published)

    def _add(self, key: str, verdict: TaskVerdict) -> None:
        if verdict.soundness is not None:
            published = {name: values.tolist() for name, values in verdict.published.items()}
            value = {"key": key, "sources": verdict.soundness.sources, "total_bits": verdict.soundness.total_bits, "published": published}
            self._file.write(json.dumps(value).encode() + b"\n")
            self._file.flush()
