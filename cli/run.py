"""Commands of the provider: `verilora init`, `verilora estimate`, `verilora run`.

The plan is shown before the work, progress while it goes on, a summary at the end; with --json the summary alone goes to
standard output. Prefect is imported only when there is something left to do, after its environment is set.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.output import USAGE, complain, console, emit_json, errors, reporting, telling

if TYPE_CHECKING:
    from flows.session import Session
    from prover.cost.rates import Rates
    from tasks.plan import Draft

RunYaml = Annotated[Path, typer.Argument(metavar="RUN.YAML", help="What to run; `verilora init DIR` writes one to start from.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and Prefect's log.")]


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write; existing files are never replaced.")],
    as_json: Json = False, debug: Debug = False,
) -> None:
    """Write a commented run.yaml, a tiny pretrained LLaMA and a small dataset."""
    from prover.files.init_project import init_project

    with reporting(debug):
        written = [str(path) for path in init_project(folder)]
        if as_json:
            emit_json({"files": written})
            return
        for path in written:
            _print(f"wrote {path}")
        _print(f"next: verilora run {folder / 'run.yaml'}")


def estimate(
    path: RunYaml,
    device: Annotated[str, typer.Option("--device", help="Whose rates to measure: auto, cpu, cuda or reference.")] = "auto",
    memory: Annotated[str | None, typer.Option(
        "--memory", help="Plan for a machine or device with this much memory, for example 80GB or 24GiB, instead of this one.")] = None,
    as_json: Json = False, debug: Debug = False,
) -> None:
    """Show what a run will cost: values, lookups, proof bytes, bits, memory, seconds. Nothing is written."""
    from flows.session import estimate as compute
    from prover.backend import NAMES

    if device not in (*NAMES, "cuda"):
        raise complain(f"--device {device}: valid is {', '.join(dict.fromkeys((*NAMES, 'cuda')))}", USAGE)
    with reporting(debug):
        with telling() as tell:
            found, rates = compute(str(path), device, None if memory is None else _bytes(memory), tell)
        values = _plan(found, rates)
        emit_json(values) if as_json else _print_plan(values)


def _bytes(text: str) -> int:
    from flows.config import SIZES, size

    try:
        return size(text)
    except ValueError:
        raise complain(f"--memory {text}: valid is {SIZES}", USAGE) from None


def run(path: RunYaml, as_json: Json = False, debug: Debug = False) -> None:
    """Run an audited fine-tune, or continue it where it stopped; a finished one is left alone."""
    from flows.session import open_session
    from tasks.context import TrainingOverflow

    with reporting(debug, interrupted="interrupted: nothing recorded is lost, the same command continues where it was"):
        started = time.monotonic()
        session = open_session(str(path))
        fresh = not session.finished()
        try:
            summary = _work(path, session, as_json, debug) if fresh else session.summary()
        except TrainingOverflow:
            raise complain(_overflow(session), USAGE) from None
        values = {**summary.to_json(), "wall_seconds": round(time.monotonic() - started, 1), "finished_before": not fresh}
        emit_json(values) if as_json else _print_summary(values)


def _work(path: Path, session: "Session", quiet: bool, debug: bool) -> Any:
    """Plan, or take up what is there, then train and prove; Prefect's server starts meanwhile."""
    from flows.environment import embed
    from flows.server import embedded

    embed(session.config.folder, debug)
    if debug:
        from tasks.telemetry import log_format

        os.environ.setdefault("VERILORA_LOG", log_format())
    with embedded() as ready:
        with session.exclusive():
            context = session.resume()
            if context is None:
                _begin(session, quiet, ready)
            elif not quiet:
                _print(f"continuing run {context.run_id}")
        ready()
        _flow(path, session, quiet)
    return session.summary()


def _begin(session: "Session", quiet: bool, ready: Callable[[], None]) -> None:
    """Plan, show the plan, commit."""
    with telling() as tell:
        drafted = session.draft(tell)
        tell("waiting for Prefect's server")
        ready()  # rates are those of a machine that does nothing else
        if not quiet:
            from cli.calibrate import loss_line

            tell("measuring what this machine does in a second")
            _print_plan(_plan(drafted, session.rates(drafted)))
            manifest = drafted.manifest
            tell("measuring the loss of the base model, stored and quantised")
            _print(loss_line(session.quantisation_loss(drafted), manifest.widths["weight"], manifest.weight_scales))
        session.begin(drafted, tell)


def _flow(path: Path, session: "Session", quiet: bool) -> None:
    """The flow under a progress bar, on a server that answers."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    from flows.finetune import finetune  # Prefect reads its environment when it is imported

    last = TextColumn("{task.fields[last]}")
    columns = (TextColumn("{task.description:6}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), last)
    with Progress(*columns, console=errors, disable=quiet) as progress:
        bars: dict[str, TaskID] = {
            before.work: progress.add_task(before.work, total=before.total, completed=before.done, last="starting")
            for before in session.so_far()
        }

        def show(seen: Any) -> None:
            progress.update(bars[seen.work], total=seen.total, completed=seen.done, last=seen.text)

        session.on_progress = show
        finetune(str(path))


def _overflow(session: "Session") -> str:
    from tasks.train import overflow_file

    what = session.stores.private.get(overflow_file(session.context.run_id)).decode()
    return f"training stopped: {what}. Run {session.context.run_id} stays in the ledger as far as it came; nothing is lost"


def _plan(drafted: "Draft", rates: "Rates | None") -> dict[str, Any]:
    """What it costs, and the memory that its tasks fit in."""
    room = drafted.room
    planned = {"planned_device": room.backend, "planned_memory_bytes": room.limit, "planned_memory_said": room.said} if room else {}
    return drafted.estimate.to_json(rates) | planned


def _print_plan(plan: dict[str, Any]) -> None:
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table("task", "number", "committed", "padded", "lookups", "proof", "bits", "memory", "time", box=SIMPLE, show_edge=False,
                  padding=(0, 1, 0, 0))
    for column in table.columns:  # eighty characters hold them
        column.no_wrap = True
    for row in [*plan["kinds"], {**plan, "kind": "all"}]:
        seconds = row["estimated_seconds"]
        table.add_row(
            row["kind"], str(row["tasks"]), _short(row["committed_values"]), _short(row["padded_values"]), _short(row["lookups"]),
            _short(row["proof_bytes"]) + "B", str(row["soundness_bits"]), _short(row["estimated_memory_bytes"]) + "B",
            "–" if seconds is None else f"{seconds} s", end_section=row["kind"] == plan["kinds"][-1]["kind"],
        )
    console.print(table)
    _print(f"proof parameters {plan['profile']}; openings per commitment {plan['budgets']}")
    if plan["parts"] > 1:
        _print(f"the sequences of a step are divided among {plan['parts']} parts, each proved in tasks of its own")
    measured = f"times from rates of the {plan['backend']} backend measured now, one task after another"
    times = measured if plan["backend"] else "no times, since that device is not here"
    _print(f"memory of the largest task, without the program itself, to fit in {_short(plan['planned_memory_bytes'])}B"
           f"{' ' * bool(plan['planned_memory_said'])}{plan['planned_memory_said']}; {times}")


def _print_summary(values: dict[str, Any]) -> None:
    if values["finished_before"]:
        _print(f"run {values['run']} was finished before; nothing was added")
    else:
        _print(f"run {values['run']} is finished in {values['wall_seconds']} s")
    _print(
        f"{values['steps']} steps in {values['windows']} windows, {values['tasks']} tasks proved, {values['proof_bytes']:,} proof bytes, "
        f"at least {values['soundness_bits']} bits each; training {values['train_seconds']} s, proving {values['prove_seconds']} s"
    )
    _print(f"next: verilora verify {values['run']}")


def _short(number: int) -> str:
    for unit, name in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= unit:
            return f"{number / unit:.1f} {name}"
    return f"{number} "


def _print(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
