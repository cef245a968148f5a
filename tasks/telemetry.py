"""What work says about itself while it goes on: a line in the log for each unit of work, and Prometheus metrics.

    VERILORA_LOG = json | text | off (the default; `verilora worker` sets text on a terminal, else json), on standard error
    event    trained, proved, retried, taken-over
    fields   run, window, layer, kind, part, seconds (wall clock of this unit), bytes (of the proof), steps, prover (host/process),
             outcome: fresh, standing (it was there already) or failed, with the kind of error

Metrics exist in processes that `serve_metrics` gave an environment to, that is children of `verilora worker --metrics-port`. Each child
takes a slot (a locked file) of a folder and counts on in that slot's files, so their number does not grow with the number of
shifts; what a child that died said about its present state is removed.

Nothing here decides anything, and a failure here fails no work. Values are digests, names, sizes and times; what looks like
credentials of a URL is cut out of every text. Libraries are imported when something is said: `verilora verify` does without
them. Called by tasks/, flows/ and cli/deploy.py.
"""

import atexit
import contextlib
import fcntl
import functools
import os
import re
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from protocol.statement import Task
    from tasks.context import RunContext
    from tasks.prove import Proved

FOLDER = "VERILORA_METRICS"  # not the library's own variable, under which Prefect would write into the folder too
SECONDS = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000, 10000)  # bounds of the histogram of proofs
_CREDENTIALS = ((re.compile(r"(?i)(password|secret|token|key)=[^\s&]+"), r"\1=…"), (re.compile(r"://\S*@"), "://…@"))
_MAX_SLOTS = 256
_first = threading.Lock()  # one thread makes this process's metrics

P = ParamSpec("P")
T = TypeVar("T")


def proving(work: "Callable[[RunContext, Task], Proved]") -> "Callable[[RunContext, Task], Proved]":
    """Have every proof attempt tell how it ended."""

    @functools.wraps(work)
    def told(context: "RunContext", task: "Task") -> "Proved":
        started = time.monotonic()
        try:
            done = work(context, task)
        except BaseException as error:
            _say("proved", **_place(context, task), seconds=_since(started), outcome="failed", **_fault(error))
            _count("proofs", 1, task.kind, "failed")
            raise
        seconds, outcome = _since(started), "fresh" if done.fresh else "standing"
        _say("proved", **_place(context, task), seconds=seconds, bytes=done.size, outcome=outcome)
        _count("proofs", 1, task.kind, outcome)
        if done.fresh:
            _count("proof_seconds", seconds, task.kind)
            _count("proof_bytes", done.size, task.kind)
        return done

    return told


def training(work: Callable[P, bool]) -> Callable[P, bool]:
    """Have every trained window tell how it ended; the first two arguments are context and window."""

    @functools.wraps(work)
    def told(*arguments: P.args, **named: P.kwargs) -> bool:
        started, context, window = time.monotonic(), arguments[0], arguments[1]
        fields: dict[str, Any] = {"run": context.run_id, "window": window}  # type: ignore[attr-defined]
        try:
            fresh = work(*arguments, **named)
        except BaseException as error:
            _say("trained", **fields, seconds=_since(started), outcome="failed", **_fault(error))
            raise
        steps = context.manifest.windows()[window].count  # type: ignore[attr-defined, index]
        _say("trained", **fields, seconds=_since(started), steps=steps, outcome="fresh" if fresh else "standing")
        if fresh:
            _count("trained_steps", steps)
            _count("training_seconds", _since(started))
        return fresh

    return told


def retried(task: str, error: BaseException) -> None:
    """A task failed for a reason that may pass, and will be tried again."""
    _say("retried", task=task, outcome="failed", **_fault(error))
    _count("retries", 1, task)


def taken_over(context: "RunContext", task: "Task") -> None:
    """A statement that another prover holds without a proof is proved here."""
    _say("taken-over", **_place(context, task))
    _count("takeovers", 1)


def left(run: str, statements: int) -> None:
    """How many statements of a run can be proved now."""
    _count("statements_left", statements, run)


@contextlib.contextmanager
def shift() -> Iterator[None]:
    """A prover at work."""
    _count("shifts_running", 1)
    try:
        yield
    finally:
        _count("shifts_running", 0)


# the log

def log_format() -> str:
    """What suits this process's standard error."""
    return "text" if sys.stderr.isatty() else "json"


def redact(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Cut credentials out of every text of a log line (a structlog processor)."""
    for name, value in event.items():
        if isinstance(value, str):
            for pattern, instead in _CREDENTIALS:
                value = pattern.sub(instead, value)
            event[name] = value
    return event


def _say(event: str, **fields: Any) -> None:
    form = os.environ.get("VERILORA_LOG", "off")
    if form == "off":
        return
    with contextlib.suppress(Exception):  # standard error is closed, or its disk is full
        outcome = fields.get("outcome")
        line = _logger(form).bind(prover=f"{socket.gethostname()}/{os.getpid()}")
        (line.warning if outcome == "failed" else line.info)(event, **fields)


def _logger(form: str) -> Any:
    import structlog

    last = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()) if form == "text" else structlog.processors.JSONRenderer()
    processors = [structlog.processors.add_log_level, structlog.processors.TimeStamper(fmt="iso", utc=True), redact, last]
    # standard error of this moment: a progress bar puts its own in place
    return structlog.wrap_logger(structlog.PrintLogger(sys.stderr), processors=processors)


def _place(context: "RunContext", task: "Task") -> dict[str, Any]:
    return {"run": context.run_id, "kind": task.kind, "window": task.window, "layer": task.layer, "part": task.part}


def _fault(error: BaseException) -> dict[str, str]:
    """The kind of an error, and its text where it is one of this program's own, whose texts hold no values."""
    from storage.errors import StorageError
    from tasks.context import RunError

    said = {"message": str(error)[:1000]} if isinstance(error, StorageError | RunError) else {}
    return {"error": type(error).__name__, **said}


def _since(started: float) -> float:
    return round(time.monotonic() - started, 3)


# metrics

def _count(name: str, value: float, *labels: str) -> None:
    if FOLDER not in os.environ:
        return
    with contextlib.suppress(Exception):  # the folder is gone or full
        with _first:
            metric = _metrics(os.environ[FOLDER])[name]
        metric = metric.labels(*labels) if labels else metric
        act = {"counter": "inc", "histogram": "observe", "gauge": "set"}[metric._type]
        getattr(metric, act)(value)


@functools.cache
def _metrics(folder: str) -> dict[str, Any]:
    """This process's metrics, in a slot that no living process has."""
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, values

    slot = _take_slot(Path(folder))
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
    values.ValueClass = values.MultiProcessValue(process_identifier=lambda: slot)
    own = CollectorRegistry()
    counters = {
        "proofs": ("proof attempts by kind of task and outcome", ("kind", "outcome")), "proof_bytes": ("bytes of new proofs", ("kind",)),
        "trained_steps": ("steps trained", ()), "training_seconds": ("seconds of training and committing", ()),
        "retries": ("Prefect tasks tried again", ("task",)), "takeovers": ("statements taken over from a prover that hangs", ()),
    }
    found: dict[str, Any] = {n: Counter(f"verilora_{n}", text, labels, registry=own) for n, (text, labels) in counters.items()}
    found["proof_seconds"] = Histogram("verilora_proof_seconds", "seconds of a new proof", ("kind",), buckets=SECONDS, registry=own)
    found["statements_left"] = Gauge(
        "verilora_statements_left", "statements that can be proved now", ("run",), registry=own, multiprocess_mode="livemostrecent")
    found["shifts_running"] = Gauge("verilora_shifts_running", "provers at work", registry=own, multiprocess_mode="livesum")
    return found


def _take_slot(folder: Path) -> int:
    for slot in range(_MAX_SLOTS):
        handle = os.open(folder / f"{slot}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            continue
        _forget_state(folder, slot)
        return slot  # the lock stays until the process ends
    raise OSError(f"more than {_MAX_SLOTS} processes count in {folder}")


def _forget_state(folder: Path, slot: int) -> None:
    for path in folder.glob(f"gauge_live*_{slot}.db"):
        path.unlink(missing_ok=True)


def _forget_the_dead(folder: Path) -> None:
    for path in folder.glob("*.lock"):
        with path.open("rb") as file, contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held until the file is closed
            _forget_state(folder, int(path.stem))


def serve_metrics(port: int) -> dict[str, str]:
    """Serve on loopback what children of this process count; the environment that they need for it."""
    from prometheus_client import CollectorRegistry, start_http_server
    from prometheus_client.multiprocess import MultiProcessCollector

    folder = Path(tempfile.mkdtemp(prefix="verilora-metrics-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)

    class Children(MultiProcessCollector):  # type: ignore[misc]
        def collect(self) -> Any:
            _forget_the_dead(folder)
            return super().collect()

    registry = CollectorRegistry()
    Children(registry, path=str(folder))
    try:
        start_http_server(port, addr="127.0.0.1", registry=registry)
    except OSError as error:
        raise OSError(f"metrics cannot be served on port {port} of loopback ({error.strerror}): give another --metrics-port") from None
    return {FOLDER: str(folder)}
