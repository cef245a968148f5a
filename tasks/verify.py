"""Judge one run: the verifier's checks, task by task in several processes, and receipts as ledger rows.

The checks are verifier/evidence.py's and nothing else decides; this file only spreads jobs over processes and remembers what was
accepted before. At most two jobs a process are in memory. An interrupt ends it when the tasks begun are done. Never imports prover
code. Called by `verilora verify`, flows/verify.py and the prover's own final check.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from protocol.errors import VerificationError
from protocol.statement import task_list
from storage.ledger import Ledger
from storage.models import WHOLE_RUN, VerdictRow
from tasks.allocators import lack_of_memory
from tasks.child import end_with_parent
from tasks.resume import Accepted
from verifier.bundle import Bundle
from verifier.evidence import Verdict, verify_bundle
from verifier.note import Checkpoint, Policy, split_note
from verifier.receipt import receipt_about, receipt_id, verify_receipt
from verifier.run import Job, TaskVerdict, check_one
from verifier.sample import Sample
from verifier.task import fail_closed


class NoVerdict(OSError):
    """The machine, and not the evidence, is why there is no verdict: what to do."""


Progress = Callable[[TaskVerdict, int], None]  # a verdict, and how many tasks are looked at in all


def judge(
    bundle: Bundle, order: Mapping[str, Any] | None = None, workers: int | None = None, progress: Progress | None = None, *,
    policy: Policy | None = None, seen: Checkpoint | None = None, sample: Sample | None = None, accepted: Accepted | None = None,
) -> Verdict:
    """The verdict on one run, from `workers` processes (one for each core that this one may use); never raises for anything that the
    evidence contains."""
    processes = workers or len(os.sched_getaffinity(0))

    def spread(jobs: Iterable[Job]) -> Iterator[TaskVerdict]:
        total = 0

        def counted() -> Iterator[Job]:
            nonlocal total
            for job in jobs:
                if not total:
                    total = len(task_list(job.manifest))
                    total = min(total, sample.size) if sample else total
                yield job

        def fresh(unknown: Iterable[Job]) -> Iterator[TaskVerdict]:
            return _spread(unknown, processes)

        for item in accepted.spread(counted(), fresh) if accepted is not None else fresh(counted()):
            if progress:
                progress(item, total)
            yield item

    try:
        return verify_bundle(bundle, policy, order, seen, sample, spread)
    except (BrokenProcessPool, MemoryError, OSError) as error:
        said = "the system has ended a process, as it does where memory is short" if isinstance(error, BrokenProcessPool) else (
            lack_of_memory(error))
        if said is None:
            raise
        raise NoVerdict(
            f"verifying ran out of memory ({said}), so there is no verdict, and none was recorded: verify with fewer tasks at a time "
            f"(--workers 1 takes least, here there were {processes}), or on a machine with more memory. Tasks that were accepted before "
            "are not checked again where --state keeps them"
        ) from None


def _spread(jobs: Iterable[Job], workers: int) -> Iterator[TaskVerdict]:
    """Verdicts in the order in which they are ready."""
    if workers < 2:
        for job in jobs:
            yield check_one(*job)
        return
    # spawn: a forked child would inherit locks of threads (progress bar, database) in whatever state they are. The children
    # import verifier/ alone, no storage.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_parent) as pool:
        try:
            with _uninterrupted():
                for _ in range(workers):
                    pool.submit(int)  # each starts a process, until one of them is idle
            pending: set[Future[TaskVerdict]] = set()
            for job in jobs:
                pending.add(pool.submit(check_one, *job))
                if len(pending) >= 2 * workers:
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Processes that start here never see an interrupt from the keyboard, which goes to all of a terminal: the one that started them
    ends them, and is interrupted itself when they have started. In a thread that no interrupt reaches there is nothing to do."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    resource_tracker.ensure_running()  # it would let interrupts through when it starts with the first process
    met = list[int]()
    before = signal.signal(signal.SIGINT, lambda number, _: met.append(number))  # another thread may have taken it
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which processes inherit
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, before)
    if met:
        raise KeyboardInterrupt


def default_key() -> Path:
    """Where an auditor's signing key lies unless another file is named: generated there on first use."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "verilora" / "verifier.key"


def submit(ledger: Ledger, envelope: bytes) -> tuple[str, bool]:
    """Append a receipt to the ledger whose run it is about: a verdict row for each task, and one for the run with the envelope as
    its signature. Submitting it again does nothing. The run's id and whether the verdict is new; VerificationError if signature, run,
    manifest or log differ."""
    run = ledger.run(verify_receipt(envelope)["predicate"]["run"])
    said = receipt_about(envelope, run.run_id, run.manifest.encode())
    with fail_closed("receipt"):
        _check_log(ledger, said["state"], said["log"])
    known = {row.statement_id for row in ledger.record(run.run_id).statements}
    verification, name = receipt_id(envelope), said["verifier"]["name"][:200]
    for task in said["tasks"]:
        if task["statement"] in known:
            ledger.append(VerdictRow(verification, run.run_id, task["statement"], name, task["accepted"], task["reason"]))
    reason = said["reason"] or ("" if said["accepted"] else said["state"])
    fresh = ledger.append(VerdictRow(verification, run.run_id, WHOLE_RUN, name, said["accepted"], reason, envelope.decode()))
    return run.run_id, fresh


def _check_log(ledger: Ledger, state: str, log: Mapping[str, Any]) -> None:
    """The verdict rests on a checkpoint of this ledger; a rejection may be of a log that had none."""
    if not log and state != "rejected":
        raise VerificationError("receipt-log", "receipt", "the checkpoint that the verdict rests on", "none")
    heads = {row.size: split_note(row.note.encode())[0].root.hex() for row in ledger.checkpoints()}
    if log and heads.get(log["size"]) != log["root"]:
        raise VerificationError("receipt-log", "checkpoint", f"one of this log's, of size {log['size']}", f"root {log['root']}")
