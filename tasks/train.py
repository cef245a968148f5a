"""Train one window and record its commitments: x/*, dx/*, state/*; norm/* and clip with clipping; delivered/* in the last window; of
steps in several parts adapter/*, gradient/* and loss/*;
and copies under fresh blinding of the commitments known at the start, in windows that the manifest names.

Secrets first (every commitment's seed and tensors), then the window's own file with all roots, created once, which makes the
window complete, then ledger rows. A window without that file is trained again under fresh seeds: nothing of it was published. A
window with it is never trained or blinded again; its rows are appended from the file, also by a late trainer that finds another's
there. Called by flows/work.py.
"""

import time
from collections.abc import Callable

from protocol.encoding import canonical_json, parse_canonical
from protocol.manifest import base_commitments
from protocol.statement import Name, part_of, standing
from prover.executor.evaluate import RangeOverflow
from prover.executor.trainer import WindowTrace
from storage.models import EventRow
from tasks.context import RunContext, RunError, TrainingOverflow
from tasks.deliver import folder
from tasks.gpu_fault import fault_told
from tasks.shortage import TRAINING, shortage_told
from tasks.telemetry import training


def window_file(run_id: str, window: int) -> str:
    """The private store's name for the roots of a completed window."""
    return f"{folder(run_id)}/windows/{window}"


def overflow_file(run_id: str) -> str:
    """The private store's name for the full message of an overflow, which contains a value."""
    return f"{folder(run_id)}/overflow"


@training
def train_window(context: RunContext, window: int, progress: Callable[[int, float], None] | None = None) -> bool:
    """Have window `window` recorded; False if it was already. TrainingOverflow stops the run, with an event."""
    what = f"training window {window}"
    with shortage_told(what, TRAINING, context.backend), fault_told(what):
        return _recorded(context, window, progress)


def _recorded(context: RunContext, window: int, progress: Callable[[int, float], None] | None) -> bool:
    context.stores.log.agree()
    private, name = context.stores.private, window_file(context.run_id, window)
    recorded = context.recorded(window_names(context, window)[0])  # asked first: the window's file is older than its rows
    fresh = not private.has(name)
    if fresh and recorded:
        raise RunError(
            f"window {window} of run {context.run_id} is in the ledger, but its secrets are not in the private store {private.where}, "
            "which was restored from an older copy, or is another one: restore the newest copy of it, or start a new run, for example "
            "with another seed"
        )
    if fresh:
        started = time.monotonic()
        trace = _run(context, window, progress)
        roots = {str(n): context.commit(n, arrays).hex() for n, arrays in trace.commitments(window, context.manifest.part_numbers).items()}
        roots |= {str(n): context.commit(n, context.tensors(Name(n.base))).hex() for n in copies(context, window)}
        milliseconds = int(1000 * (time.monotonic() - started))
        fresh = private.create(name, canonical_json({"roots": roots, "milliseconds": milliseconds}))
    roots = parse_canonical(private.get(name), "window")["roots"]
    for n in window_names(context, window):
        context.record_commitment(n, bytes.fromhex(roots[str(n)]))
    context.stores.log.publish()
    return fresh


def window_seconds(context: RunContext, window: int) -> float:
    """How long training and committing a recorded window took."""
    stored = parse_canonical(context.stores.private.get(window_file(context.run_id, window)), "window")
    return float(stored["milliseconds"]) / 1000


def window_names(context: RunContext, window: int) -> list[Name]:
    """Every commitment that a window adds."""
    layers, last = range(context.manifest.model.layers), window == len(context.manifest.windows()) - 1
    parts = context.manifest.part_numbers
    names = [part_of(f"x/{n}", p, window) for n in range(len(layers) + 1) for p in parts]
    names += [part_of(f"dx/{n + 1}", p, window) for n in layers for p in parts] + [Name(f"state/{n}", window + 1) for n in layers]
    if context.manifest.parts > 1:
        names += [Name(f"adapter/{n}", window) for n in layers] + [part_of(f"gradient/{n}", p, window) for n in layers for p in parts]
        names += [part_of("loss", p, window) for p in parts[:-1]]
    if context.manifest.optimizer.clips:
        names += [Name(f"norm/{n}", window) for n in layers] + [Name("clip", window)]
    return names + copies(context, window) + ([Name(f"delivered/{n}", window + 1) for n in layers] if last else [])


def copies(context: RunContext, window: int) -> list[Name]:
    """The start commitments that are rotated before a window."""
    found = [standing(context.manifest, base, window) for base in base_commitments(context.manifest.model)]
    return [name for name in found if name.window == window]


def _run(context: RunContext, window: int, progress: Callable[[int, float], None] | None) -> WindowTrace:
    layers = range(context.manifest.model.layers)
    state = {n: context.tensors(Name(f"state/{n}", window)) for n in layers} if window else None
    try:
        return context.trainer.run_window(context.manifest.windows()[window], state, progress)
    except RangeOverflow as error:
        step = -1 if error.step is None else error.step
        context.stores.private.put(overflow_file(context.run_id), str(error).encode())
        detail = canonical_json({"tensor": error.tensor, "step": step}).decode()
        context.stores.ledger.append(EventRow(context.run_id, "overflow", window, detail))
        context.stores.log.publish()
        raise TrainingOverflow(f"{error.tensor} left its declared range in step {step}") from None
