"""One life of a prover process: continue the toy run in a folder, and die by SIGKILL at a chosen moment.

    moment = "before spend", "after proof row", …      number = at which of them, counting from 1; 0 lives to the end

Each life appends what it expanded from seeds to FOLDER/fingerprints: which seed and label, which 64-bit words came out, what was
committed or proved with it. The file survives the kill (O_APPEND, one write per record), so a test can compare all lives.
"""

import hashlib
import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import tasks.context
import tasks.prove
from protocol.channel import Channel
from protocol.params import PROFILES
from protocol.statement import task_list
from prover.commitment.commit import CommitmentData
from prover.randomness import SecretStream
from storage.ledger import Ledger
from storage.local import LocalObjectStore
from storage.log import LogPublisher
from storage.models import CommitmentRow, ProofRow, StatementRow
from storage.private import LocalPrivateStore
from tasks.backlog import Backlog
from tasks.context import RunContext
from tasks.plan import Draft, planned, start
from tasks.prove import prove_statement
from tasks.train import train_window
from tests.tasks.toy_run import stores, toy_draft

PROFILE = "goldilocks-2^11"
KEY = "5" * 64
WORDS = 64  # of each stream that are written down
Seen = tuple[str, ...]


def crash_draft() -> Draft:
    """Two windows of one step, everything secret copied before the second, and as many spare openings as the profile allows."""
    draft = toy_draft(key=KEY)
    budgets = dict.fromkeys(draft.manifest.budgets, PROFILES[PROFILE].max_openings)
    manifest = replace(draft.manifest, profile=PROFILE, rotation_windows=1, budgets=budgets)
    return replace(draft, manifest=manifest, prepared=replace(draft.prepared, manifest=manifest))


class Life:
    """Counts moments and ends at one of them."""

    def __init__(self, folder: Path, moment: str, number: int, end: signal.Signals = signal.SIGKILL) -> None:
        self.moment, self.left, self.end = moment, number, end
        self.file = os.open(folder / "fingerprints", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def reach(self, moment: str) -> None:
        if moment == self.moment:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), self.end)

    def note(self, **record: Any) -> None:
        os.write(self.file, json.dumps({"life": os.getpid()} | record).encode() + b"\n")

    def around(self, owner: Any, method: str, name: Callable[..., str]) -> None:
        """`before NAME` and `after NAME` of every call of a method; an empty name is no moment."""
        inner = getattr(owner, method)

        def wrapped(this: Any, *arguments: Any, **named: Any) -> Any:
            moment = name(*arguments)
            if moment:
                self.reach(f"before {moment}")
            found = inner(this, *arguments, **named)
            if moment:
                self.reach(f"after {moment}")
            return found

        setattr(owner, method, wrapped)

    def listen(self) -> None:
        """Write down seeds in use: of streams, commitments, proofs; and each draw of positions."""
        octets, positions, commit, prove = SecretStream.octets, Channel.positions, tasks.context.commit, tasks.prove.prove_task

        def heard(stream: SecretStream, label: str, count: int) -> bytes:
            out = octets(stream, label, count)
            words = np.frombuffer(out[: 8 * WORDS], dtype=np.uint64)
            self.note(seed=_name(stream.seed), label=label, words=[int(w) for w in words])
            return out

        def drawn(channel: Channel, tag: str, n: int, count: int) -> Any:
            if not channel.checking:
                self.note(positions=tag)
                self.reach("after positions")
            return positions(channel, tag, n, count)

        def committed(backend: Any, layout: Any, tensors: Any, seed: bytes, *more: Any) -> CommitmentData:
            data = commit(backend, layout, tensors, seed, *more)
            self.note(seed=_name(seed), root=data.root.hex())
            return data

        def proved(backend: Any, shape: Any, statement: bytes, inputs: Any, values: Any, published: Any, params: Any,
                   seed: bytes, spend: Any) -> bytes:
            self.note(seed=_name(seed), attempt=hashlib.sha256(statement).hexdigest())
            return prove(backend, shape, statement, inputs, values, published, params, seed, spend)

        SecretStream.octets = heard  # type: ignore[method-assign]
        Channel.positions = drawn  # type: ignore[method-assign]
        tasks.context.commit = committed  # type: ignore[assignment]
        tasks.prove.prove_task = proved  # type: ignore[assignment]


def _name(seed: bytes) -> str:
    return hashlib.sha256(seed).hexdigest()[:32]


def _row(row: Any) -> str:
    return {ProofRow: "proof row", StatementRow: "statement row", CommitmentRow: "commitment row"}.get(type(row), "")


def _watched(folder: Path, moment: str, number: int, end: signal.Signals = signal.SIGKILL) -> None:
    life = Life(folder, moment, number, end)
    life.around(Ledger, "spend_opening", lambda *_: "spend")
    life.around(Ledger, "append", _row)
    life.around(LocalObjectStore, "put", lambda *_: "object")
    life.around(LogPublisher, "publish", lambda *_: "checkpoint")
    life.around(LocalPrivateStore, "put", lambda *_: "secret")
    life.around(LocalPrivateStore, "create",
                lambda name, _: "window" if "/windows/" in name else "plan" if name.startswith("plans/") else "")
    life.listen()


def live(folder: Path, moment: str = "", number: int = 0, train_only: bool = False) -> None:
    """Plan or continue, train every window, prove every statement."""
    _watched(folder, moment, number)
    places = stores(folder)
    context: RunContext = planned(places, KEY) or start(places, crash_draft())
    for window in range(-1, len(context.manifest.windows())):
        if window >= 0:
            train_window(context, window)
        for task in task_list(context.manifest):
            if task.window == window and not train_only:
                prove_statement(context, task)


def shift(folder: Path, patience: float, moment: str = "", number: int = 0, end: signal.Signals = signal.SIGKILL) -> None:
    """Prove what can be claimed of a run that was planned; what others hold is waited for as long as `patience` allows."""
    _watched(folder, moment, number, end)
    context = planned(stores(folder), KEY)
    if context is None:
        raise RuntimeError("there is no run to work for")
    backlog, begin = Backlog(context), time.monotonic()
    while not backlog.finished and time.monotonic() < begin + 3 * patience:
        for _, task in backlog.claims(patience, lambda: True):
            prove_statement(context, task)
        backlog.refresh()
        if patience > 100:
            return
        time.sleep(0.1)
