"""A run.yaml in use by this process: its stores, its run, and how far it is.

Prefect passes only a path and names between tasks; each process opens the session of that path once, so the same tasks run
embedded in threads and on workers of a server. A prover joins a run by its id and needs neither base model nor dataset, whose
integers are in the private store. Imports no Prefect. Called by flows/ and the command line.
"""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

from flows.config import RunConfig, load_config
from protocol.encoding import canonical_json
from protocol.manifest import RunManifest
from protocol.params import profile
from prover.backend import select
from prover.backend.base import Backend
from prover.cost.rates import Rates, measure
from prover.executor.quantisation import QuantisationError
from prover.progress import Tell, silent
from storage.holding import holding
from storage.models import NONE, EventRow
from tasks.backlog import Backlog
from tasks.context import RunContext, RunRequest, Stores, open_stores
from tasks.estimate import PlanError
from tasks.gpu_fault import fault_told
from tasks.plan import Draft, Room, draft, plan_key, planned, quantisation_loss, start
from tasks.shortage import PLANNING, shortage_told
from tasks.train import window_file, window_seconds

_ABSENT = (ImportError, OSError, RuntimeError)  # of a device that is not here


class RunBusy(OSError):
    """Another process works on this run."""


@dataclass(frozen=True)
class Progress:
    """`done` of `total` steps or tasks of one kind of work ("train" or "prove"); `text` says what was done last."""

    work: str
    done: int
    total: int
    text: str


@dataclass(frozen=True)
class Summary:
    """A finished run in numbers; seconds are sums over windows and proofs."""

    run: str
    tasks: int
    windows: int
    steps: int
    proof_bytes: int
    soundness_bits: int
    train_seconds: float
    prove_seconds: float

    def to_json(self) -> dict[str, str | int | float]:
        return asdict(self)


def request_of(config: RunConfig) -> RunRequest:
    """What run.yaml asks for, as tasks/ wants it."""
    training, audit, quantisation = config.training, config.audit, config.quantisation
    return RunRequest(
        base_model=config.base_model_path, dataset=config.dataset_path, dataset_opening=config.dataset_opening_path,
        data_format=config.data.format, packing=config.data.packing, lora=config.lora.proved(), optimizer=training.proved(),
        epochs=training.epochs, batch_size=training.batch_size, gradient_accumulation=training.gradient_accumulation,
        sequence_length=training.sequence_length, seed=training.seed, window_steps=training.window_steps, max_steps=training.max_steps,
        weight_bits=int(quantisation.weights.removeprefix("int")), weight_scales=quantisation.scales, headroom=quantisation.headroom,
        base_visibility=audit.base_model, publish_loss=audit.publish_loss, soundness_bits=audit.soundness_bits,
        spare_openings=audit.spare_openings, parts=audit.parts,
    )


def provers_room(config: RunConfig) -> Room:
    """The memory that a task may use: what run.yaml says that a prover has, else what this process has."""
    told = config.orchestration
    if told.prover_memory is None:
        return Room.here(select())
    return _named_room(told.prover_device or "auto", told.prover_memory, "by orchestration.prover_memory")


def _named_room(device: str, memory: int, said: str) -> Room:
    """All of what somebody names; the program takes there what it takes here, if such a device is here."""
    try:
        here = Room.here(select(device))
    except _ABSENT:
        here = Room(device, 0, 0)
    return replace(here, limit=memory, memory=0, said=said)


class Session:
    """One run.yaml. `on_progress` may be set to watch; `stopped` is set when a task failed, so that queued ones give up."""

    def __init__(self, path: Path) -> None:
        self.config = load_config(path)
        self.request = request_of(self.config)
        self.stores: Stores = open_stores(self.config.ledger_url, self.config.objects_url, self.config.private_url)
        self.on_progress: Callable[[Progress], None] = lambda progress: None
        self.stopped = threading.Event()
        self._context: RunContext | None = None
        self._lock = threading.Lock()
        self._proved: set[str] = set()

    @cached_property
    def key(self) -> str:
        """The name of this run.yaml's plan; computing it reads base model and dataset."""
        return plan_key(self.request)

    def join(self, run_id: str) -> RunContext:
        """The run of this id, which the ledger must have: what a prover needs, wherever it is."""
        with self._lock:
            if self._context is None or self._context.run_id != run_id:
                manifest = RunManifest.from_json(self.stores.ledger.run(run_id).manifest.encode())
                self._context = RunContext(self.stores, run_id, manifest)
            return self._context

    def resume(self) -> RunContext | None:
        """The run if it was planned before."""
        with self._lock:
            if self._context is None:
                self._context = planned(self.stores, self.key)
            return self._context

    def draft(self, tell: Tell = silent) -> Draft:
        """The run's size, computed anew; nothing is written."""
        return draft(self.request, self.key, self.stores.ledger.openings_spent, provers_room(self.config), tell)

    def rates(self, drafted: Draft) -> Rates:
        """What this machine does in a second, measured now under the draft's parameters."""
        return device_rates(select(), drafted.estimate.profile)

    def quantisation_loss(self, drafted: Draft) -> QuantisationError:
        """The base model's loss as stored and as quantised, to be seen before training starts."""
        return quantisation_loss(self.request, drafted)

    def begin(self, drafted: Draft, tell: Tell = silent) -> RunContext:
        """Commit and record a run that was only a draft."""
        with self._lock:
            self._context = start(self.stores, drafted, tell=tell)
            return self._context

    @property
    def context(self) -> RunContext:
        """The run, planned now if it never was."""
        return self.resume() or self.begin(self.draft())

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Train this run in no other process, here or (PostgreSQL) elsewhere; RunBusy if one does. It spares work, no more: windows are
        recorded once."""
        with holding(self.stores.private, self.stores.ledger, self.key) as free:
            if not free:
                raise RunBusy("another process, here or on another machine, is working on this run: wait for it, or stop it first")
            yield

    def so_far(self) -> tuple[Progress, Progress]:
        """What a run that is continued has behind it: steps trained, statements proved."""
        backlog = Backlog(self.context)
        with self._lock:
            self._proved |= backlog.proved
        steps, windows = self.context.manifest.steps, self.context.manifest.windows()
        done = steps if backlog.recorded == len(windows) else windows[backlog.recorded].first
        return Progress("train", done, steps, ""), Progress("prove", len(backlog.proved), len(self.context.statements), "")

    def trained(self, window: int, step: int, loss: float) -> None:
        """Tell whoever watches that a step was trained."""
        self.on_progress(Progress("train", step + 1, self.context.manifest.steps, f"window {window}, loss {loss:.3f}"))

    def proved(self, identity: str, text: str) -> None:
        """Tell whoever watches that a statement has its proof."""
        with self._lock:
            self._proved.add(identity)
            done = len(self._proved)
        self.on_progress(Progress("prove", done, len(self.context.statements), text))

    def finished(self) -> bool:
        """Every window recorded, every statement proved, and the run's end in the ledger."""
        context = self.resume()
        return context is not None and any(e.kind == "finished" for e in self.stores.ledger.events(context.run_id))

    def summary(self) -> Summary:
        """Numbers of a run whose statements are all proved."""
        context = self.context
        manifest, proofs = context.manifest, self.stores.ledger.proofs(context.run_id)
        windows = [w for w in range(len(manifest.windows())) if self.stores.private.has(window_file(context.run_id, w))]
        return Summary(
            context.run_id, len(proofs), len(windows), manifest.steps, sum(p.size for p in proofs),
            min((json.loads(p.soundness)["bits"] for p in proofs), default=0),
            round(sum(window_seconds(context, w) for w in windows), 2), round(sum(p.seconds for p in proofs), 2),
        )

    def finish(self) -> Summary:
        """Append the run's end: only if every statement of the run has its proof."""
        context, summary = self.context, self.summary()
        proofs = self.stores.ledger.proved(context.run_id)
        missing = [str(task) for identity, task in context.statements.items() if identity not in proofs]
        if missing:
            raise RuntimeError(f"run {context.run_id} is not finished: no proof of {', '.join(missing[:5])}")
        detail = {"tasks": summary.tasks, "proof_bytes": summary.proof_bytes, "soundness_bits": summary.soundness_bits}
        self.stores.ledger.append(EventRow(context.run_id, "finished", NONE, canonical_json(detail).decode()))
        self.stores.log.publish()
        return summary


_sessions: dict[str, Session] = {}
_sessions_lock = threading.Lock()


def open_session(config_path: str) -> Session:
    """This process's session of a run.yaml."""
    key = str(Path(config_path).absolute())
    with _sessions_lock:
        if key not in _sessions:
            _sessions[key] = Session(Path(key))
        return _sessions[key]


def close_session(config_path: str) -> None:
    """Forget a session, so that the next use reads run.yaml again."""
    with _sessions_lock:
        session = _sessions.pop(str(Path(config_path).absolute()), None)
    if session is not None:
        session.stores.ledger.close()


def estimate(
    config_path: str, device: str = "auto", memory: int | None = None, tell: Tell = silent
) -> tuple[Draft, Rates | None]:
    """What a run.yaml would cost with the provers that it speaks of, else on this machine, or with that much memory; writes nothing.
    Rates are those of the provers' device or of `device`, None if it is not at hand; then its memory has to be named."""
    config = load_config(Path(config_path))
    request, told, backend, absent = request_of(config), config.orchestration, None, ""
    asked = told.prover_device or "auto" if device == "auto" else device
    try:
        backend = select(asked)
    except _ABSENT as error:
        absent = str(error)
    if memory is not None:
        room = _named_room(asked, memory, "by --memory")
    elif device in ("auto", told.prover_device):
        room = provers_room(config)
    elif backend is not None:
        room = Room.here(backend)
    else:
        raise PlanError(f"--device {device}: not on this machine ({absent}); with --memory SIZE it can be planned for")
    tell("reading the base model's files")
    found = draft(request, plan_key(request), room=room, tell=tell)
    tell("measuring what this machine does in a second")
    return found, device_rates(backend, found.estimate.profile) if backend else None


def device_rates(backend: Backend, profile_name: str) -> Rates:
    """Measured now, in a few seconds."""
    what = "measuring what this machine does in a second"
    with shortage_told(what, PLANNING, backend), fault_told(what):
        return measure(backend, profile(profile_name))


def calibrate(config_path: str, tell: Tell = silent) -> tuple[Draft, QuantisationError]:
    """The exponents that a run.yaml would have, and what quantisation costs; writes nothing."""
    request = request_of(load_config(Path(config_path)))
    drafted = draft(request, plan_key(request), tell=tell)
    tell("measuring the loss of the base model, stored and quantised")
    return drafted, quantisation_loss(request, drafted)
