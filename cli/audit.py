"""`verilora verify`: an independent verdict on a run, against an order if there is one.

The process never imports the prover, torch or Prefect (tests/cli/test_verify.py). The ledger is opened read-only, except with
`--record`.
"""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import Config, Debug, Json, LedgerUrl, ObjectsUrl, Run, places
from cli.output import FINE, REJECTED, USAGE, complain, console, emit_json, errors, reporting

if TYPE_CHECKING:
    from storage.ledger import Ledger
    from storage.object_store import ObjectStore
    from tasks.record import Collected
    from tasks.verify import Verdict
    from verifier.run import TaskVerdict


class OrderError(Exception):
    """An order that cannot be read."""


def open_objects(url: str) -> "ObjectStore":
    """The object store for reading: a folder that is not there is an error, not an empty store."""
    from storage.disk import path_of_file_url
    from storage.errors import StorageError
    from storage.object_store import open_object_store

    if not url:
        raise complain("--ledger needs --objects: where the proofs are, file:PATH", USAGE)
    folder = path_of_file_url(url, "storage.objects")
    if not folder.is_dir():
        raise StorageError(f"there is no object store at {folder}: check storage.objects in run.yaml, or --objects")
    return open_object_store(url)


def read_order(path: Path) -> dict[str, Any]:
    """The order as nested text: YAML without types, so that 0.10 stays 0.10 and no date or boolean is guessed."""
    import yaml

    try:
        data = yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader)  # noqa: S506 - strings, lists and mappings only
    except FileNotFoundError:
        raise OrderError(f"{path}: there is no such file. `verilora ledger show RUN --order` prints one to start from") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise OrderError(f"{path} cannot be read as an order: {error}") from None
    if not isinstance(data, dict) or not data:
        raise OrderError(f"{path} holds no mapping. `verilora ledger show RUN --order` prints one to start from")
    return data


def verify(
    run: Run,
    expect: Annotated[Path | None, typer.Option("--expect", help="order.yaml: what was ordered; any difference rejects.")] = None,
    config: Config = None, ledger_url: LedgerUrl = None, objects_url: ObjectsUrl = None,
    record: Annotated[bool, typer.Option("--record", help="Append the verdicts to the ledger.")] = False,
    verifier: Annotated[str, typer.Option("--verifier", help="Who verifies, as recorded with --record.")] = "verilora verify",
    workers: Annotated[int, typer.Option("--workers", min=1, max=64, help="Processes.")] = 2,
    as_json: Json = False, debug: Debug = False,
) -> None:
    """Verify a run independently: chain, statements, proofs; exit 0 if accepted, 1 if rejected."""
    from storage.ledger import open_ledger
    from tasks.record import collect, find_run
    from tasks.verify import report

    with reporting(debug):
        order = read_order(expect) if expect else None
        where, objects = places(config, ledger_url, objects_url)
        book, store = open_ledger(where, read_only=not record), open_objects(objects)
        started = time.monotonic()
        collected = collect(book, store, find_run(book, run).run_id)
        verdict = _judge(collected, order, workers, quiet=as_json)
        seconds = time.monotonic() - started
        if record:
            _append(book, verdict, verifier)
        if as_json:
            emit_json(report(collected, verdict) | {"seconds": round(seconds, 3)})
        else:
            _print_verdict(collected, verdict, seconds)
        raise typer.Exit(FINE if verdict.accepted else REJECTED)


def _judge(collected: "Collected", order: dict[str, Any] | None, workers: int, quiet: bool) -> "Verdict":
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from tasks.verify import judge

    columns = (TextColumn("verifying"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=errors, disable=quiet, transient=True) as progress:
        bar = progress.add_task("", total=None)

        def show(item: "TaskVerdict", total: int) -> None:
            progress.update(bar, total=total, advance=1, description=str(item.task))

        return judge(collected, order, workers, show)


def _append(book: "Ledger", verdict: "Verdict", verifier: str) -> None:
    import secrets

    from tasks.verify import verdict_rows

    known = {row.statement_id for row in book.record(verdict.run_id).statements}
    for row in verdict_rows(verdict, secrets.token_hex(8), verifier):
        if row.subject in known or row.subject == "run":
            book.append(row)


def _print_verdict(collected: "Collected", verdict: "Verdict", seconds: float) -> None:
    from rich.table import Table

    from tasks.verify import became_public

    if verdict.tasks:
        table = Table("task", "verdict", "bits", "proof bytes")
        for item in verdict.tasks:
            size = len(collected.record.evidence[item.statement_id].proof)
            state = "[green]accepted[/]" if item.accepted else "[bold red]rejected[/]"
            table.add_row(str(item.task), state, str(int(item.soundness.bits)) if item.soundness else "–", f"{size:,}")
        console.print(table)
        for item in verdict.tasks:
            if not item.accepted:
                console.print(f"{item.task}: {item.reason}", style="red", markup=False, soft_wrap=True)
    if verdict.manifest:
        table = Table("what became public", "", show_lines=False)
        for topic, value in became_public(collected, verdict.manifest, verdict.tasks).items():
            table.add_row(topic, _short(value))
        console.print(table)
    total = sum(row.size for row in collected.proofs.values())
    if verdict.accepted:
        console.print(
            f"[bold green]ACCEPTED[/] run {verdict.run_id}: {len(verdict.tasks)} tasks, {total:,} proof bytes, "
            f"{verdict.bits} bits per proof ({verdict.total_bits} for the whole run), {seconds:.1f} s", soft_wrap=True, highlight=False,
        )
    else:
        console.print(f"[bold red]REJECTED[/] run {verdict.run_id}", highlight=False, soft_wrap=True)
        console.print(verdict.reason, markup=False, highlight=False, soft_wrap=True)
    console.print(verdict.order, markup=False, highlight=False, soft_wrap=True)


def _short(value: Any, limit: int = 240) -> str:
    text = _plain(value)
    return text if len(text) <= limit else text[:limit] + " … (all of it with --json)"


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    return " ".join(str(item) for item in value) if isinstance(value, list) else str(value)
