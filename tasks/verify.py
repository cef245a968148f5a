"""Judge one run: the verifier's checks on a collected record, task by task in several processes, and what became public.

The checks are verifier/run.py's and nothing else decides; this file only spreads its jobs over processes, adds the
record's own faults (a missing object, a row that contradicts the record), and fails closed: an exception that is not a
VerificationError, raised while looking at a record, is a rejection too. Never imports prover code. Called by
`verilora verify`, flows/verify.py and the prover's own final check.
"""

import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np

from protocol.errors import VerificationError
from protocol.manifest import RunManifest
from storage.models import WHOLE_RUN, VerdictRow
from tasks.record import WHOLE, Collected, statement_fault
from verifier.run import Job, TaskVerdict, check_one, verify_run

NO_ORDER = "internally consistent; not compared with an order"
Progress = Callable[[TaskVerdict, int], None]  # verdict, number of tasks in all


@dataclass(frozen=True)
class Verdict:
    """On a whole run: accepted only if chain, order, rows and every task are. `manifest` is None if it is unusable."""

    run_id: str
    accepted: bool
    reason: str
    order: str
    manifest: RunManifest | None
    tasks: tuple[TaskVerdict, ...]

    @property
    def bits(self) -> int:
        """The least soundness of any task, rounded down; 0 if one was rejected or none was looked at."""
        return int(min((t.soundness.bits if t.soundness else 0.0 for t in self.tasks), default=0.0))

    @property
    def total_bits(self) -> int:
        """−log2 of the error of the whole run, summed over all tasks; 0 if one was rejected."""
        if not self.tasks or not all(t.soundness for t in self.tasks):
            return 0
        return int(-np.log2(sum(2.0**-t.soundness.total_bits for t in self.tasks if t.soundness)))


def judge(
    collected: Collected, order: Mapping[str, Any] | None = None, workers: int = 2, progress: Progress | None = None
) -> Verdict:
    """The verdict on one run; never raises for anything that the record contains."""

    def spread(jobs: Sequence[Job]) -> Iterator[TaskVerdict]:
        for item in _spread(jobs, workers):
            item = _with_fault(collected, item)
            if progress:
                progress(item, len(jobs))
            yield item

    def rejected(reason: str) -> Verdict:
        return Verdict(collected.run_id, False, reason, NO_ORDER, None, ())

    try:
        found = verify_run(collected.record, order, spread)
    except VerificationError as error:
        return rejected(str(error))
    except (MemoryError, BrokenExecutor):
        raise  # a condition of this machine, not of the record
    except Exception as error:  # fail closed: a record that cannot be processed is not a record of this protocol
        return rejected(f"malformed: {type(error).__name__}: {error}")
    reason = found.reason if not found.tasks else collected.faults.get(WHOLE, found.reason)
    return Verdict(collected.run_id, found.accepted and not reason, reason, found.order, found.manifest, found.tasks)


def _spread(jobs: Sequence[Job], workers: int) -> Iterator[TaskVerdict]:
    """Verdicts in the order in which they are ready; the largest proofs are taken first, so that no process waits long."""
    jobs = sorted(jobs, key=lambda job: -len(job.evidence.proof))
    if workers < 2 or len(jobs) < 2:
        for job in jobs:
            yield _closed(job, lambda job=job: check_one(*job))  # type: ignore[misc]
        return
    # spawn: a forked child would inherit locks of threads (progress bar, database) in whatever state they are. The children
    # import verifier/ alone, no storage.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context) as pool:
        futures: dict[Future[TaskVerdict], Job] = {pool.submit(check_one, *job): job for job in jobs}
        for future in as_completed(futures):
            yield _closed(futures[future], future.result)


def _closed(job: Job, result: Callable[[], TaskVerdict]) -> TaskVerdict:
    try:
        return result()
    except (MemoryError, BrokenExecutor):
        raise
    except Exception as error:  # fail closed, as in `judge`
        return job.rejected(f"malformed: {type(error).__name__}: {error}")


def _with_fault(collected: Collected, item: TaskVerdict) -> TaskVerdict:
    fault = collected.faults.get(item.statement_id, "")
    if not fault and item.soundness:
        fault = statement_fault(collected, item.statement_id, item.task, item.soundness)
    return replace(item, accepted=False, reason=fault, soundness=None, published={}) if fault else item


def losses(manifest: RunManifest, verdicts: tuple[TaskVerdict, ...]) -> list[str]:
    """The proved mean token loss of every step, in nats to 6 decimals; empty if it was not published.

    A head task publishes the sum over a step's loss tokens, an integer in units of 2^−g.
    """
    out: dict[int, str] = {}
    unit = Fraction(2) ** -manifest.exponents.get("head/vocab.g", 0)
    for item in verdicts:
        if item.task.kind == "head" and "loss" in item.published:
            first = manifest.windows()[item.task.window].first
            for step, total in enumerate(item.published["loss"].tolist(), first):
                out[step] = f"{float(total * unit / manifest.loss_tokens[step]):.6f}"
    return [out[step] for step in sorted(out)]


def became_public(collected: Collected, manifest: RunManifest, verdicts: tuple[TaskVerdict, ...]) -> dict[str, Any]:
    """Everything about a run that whoever reads its ledger knows, by topic; the loss only where it was verified."""
    return {
        "model": manifest.model.to_manifest(),
        "lora": {"r": manifest.lora.r, "lora_alpha": manifest.lora.lora_alpha, "target_modules": list(manifest.lora.target_modules)},
        "optimizer": {key: getattr(manifest.optimizer, key) for key in ("kind", "momentum", "learning_rate")},
        "schedule": {key: getattr(manifest, key) for key in ("batch_size", "sequence_length", "steps", "window_steps", "seed")},
        "data": {"examples": manifest.examples, "loss_tokens": list(manifest.loss_tokens), "tokenizer_digest": manifest.tokenizer_digest},
        "loss": losses(manifest, verdicts) if manifest.publish_loss else "not published",
        "base_model": manifest.base_visibility,
        "widths": dict(sorted(manifest.widths.items())),
        "exponents": dict(sorted(manifest.exponents.items())),
        "profile": manifest.profile,
        "budgets": dict(sorted(manifest.budgets.items())),
        "commitments": dict(sorted(manifest.commitments.items())),
        "provers": sorted({row.prover for row in collected.proofs.values()}),
        "proof_seconds": [round(collected.proofs[t.statement_id].seconds, 3) for t in verdicts],
        "events": list(collected.events),
    }


def report(collected: Collected, verdict: Verdict) -> dict[str, Any]:
    """The verdict as JSON: whole run, every task, what became public."""
    return {
        "run": verdict.run_id, "accepted": verdict.accepted, "reason": verdict.reason, "order": verdict.order,
        "manifest": verdict.manifest.digest() if verdict.manifest else None,
        "bits": verdict.bits, "total_bits": verdict.total_bits,
        "proof_bytes": sum(row.size for row in collected.proofs.values()),
        "tasks": [
            {
                "task": str(item.task), "kind": item.task.kind, "window": item.task.window, "layer": item.task.layer,
                "part": item.task.part, "statement": item.statement_id, "accepted": item.accepted, "reason": item.reason,
                "bits": int(item.soundness.bits) if item.soundness else 0,
                "soundness": item.soundness.to_json() if item.soundness else None,
                "proof_bytes": len(collected.record.evidence[item.statement_id].proof),
            }
            for item in verdict.tasks
        ],
        "public": became_public(collected, verdict.manifest, verdict.tasks) if verdict.manifest else {},
    }


def verdict_rows(verdict: Verdict, verification: str, verifier: str) -> list[VerdictRow]:
    """The ledger rows of one verification pass: one for each task, one for the run."""
    rows = [VerdictRow(verification, verdict.run_id, t.statement_id, verifier, t.accepted, t.reason) for t in verdict.tasks]
    return [*rows, VerdictRow(verification, verdict.run_id, WHOLE_RUN, verifier, verdict.accepted, verdict.reason)]
