"""Commands of whoever looks at a run: `verilora verify`, `verilora ledger runs`, `verilora ledger show`.

A process that runs one of these never imports the prover, torch or Prefect (tests/cli/test_verify.py). The ledger is opened
read-only, except by `verify --record`.
"""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.output import FINE, REJECTED, USAGE, complain, console, emit_json, errors, reporting

if TYPE_CHECKING:
    from storage.ledger import Ledger
    from storage.object_store import ObjectStore
    from tasks.record import Collected
    from tasks.verify import Verdict
    from verifier.run import TaskVerdict

ledger = typer.Typer(no_args_is_help=True, help="Query the audit ledger.")

Run = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, or a beginning of it that no other run has.")]
Config = Annotated[Path | None, typer.Option("--config", help="The run.yaml that says where things are (default: run.yaml).")]
LedgerUrl = Annotated[str | None, typer.Option("--ledger", help="The ledger, sqlite:///PATH, instead of --config.")]
ObjectsUrl = Annotated[str | None, typer.Option("--objects", help="The object store, file:PATH, instead of --config.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]


class OrderError(Exception):
    """An order that cannot be read."""


def places(config: Path | None, ledger_url: str | None, objects_url: str | None) -> tuple[str, str]:
    """URLs of ledger and object store, from run.yaml or from the options."""
    if ledger_url is not None and config is None:
        return ledger_url, objects_url or ""
    if ledger_url is not None or objects_url is not None:
        raise complain("give either --config, or --ledger and --objects", USAGE)
    from flows.config import load_config

    loaded = load_config(config or Path("run.yaml"))
    return loaded.ledger_url, loaded.objects_url


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


def order_document(manifest: dict[str, Any]) -> dict[str, Any]:
    """What a customer orders, out of a manifest: everything but what the provider alone determines (exponents, budgets …)."""
    optimizer = {key: manifest["optimizer"][key] for key in ("kind", "momentum", "learning_rate")}
    keys = ("lora", "batch_size", "sequence_length", "steps", "seed", "examples", "publish_loss", "profile", "tokenizer_digest")
    return {key: manifest[key] for key in keys} | {
        "optimizer": optimizer, "model": manifest["model"], "commitments": manifest["commitments"],
    }


@ledger.command("runs")
def ledger_runs(
    config: Config = None, ledger_url: LedgerUrl = None, as_json: Json = False, debug: Debug = False
) -> None:
    """List the runs in a ledger."""
    from storage.ledger import open_ledger

    with reporting(debug):
        book = open_ledger(places(config, ledger_url, None)[0], read_only=True)
        rows: list[dict[str, Any]] = []
        for run in book.runs():
            record = book.record(run.run_id)
            rows.append({
                "run": run.run_id, "created": str(run.created), "manifest": run.manifest_digest,
                "statements": len(record.statements), "proofs": len(record.proofs),
                "events": [event.kind for event in record.events],
            })
        if as_json:
            emit_json(rows)
            return
        from rich.table import Table

        table = Table("run", "created", "proofs", "events")
        for row in rows:
            table.add_row(row["run"], row["created"], str(row["proofs"]), ", ".join(row["events"]))
        console.print(table if rows else "The ledger has no runs.")


@ledger.command("show")
def ledger_show(
    run: Run, order: Annotated[bool, typer.Option("--order", help="Print an order document that this run fulfils.")] = False,
    config: Config = None, ledger_url: LedgerUrl = None, as_json: Json = False, debug: Debug = False,
) -> None:
    """Show one run's rows, or the order that it fulfils."""
    import json

    from storage.ledger import open_ledger
    from tasks.record import find_run

    with reporting(debug):
        book = open_ledger(places(config, ledger_url, None)[0], read_only=True)
        record = book.record(find_run(book, run).run_id)
        try:
            manifest = json.loads(record.run.manifest)
        except (ValueError, RecursionError) as error:
            raise complain(f"the manifest recorded for run {record.run.run_id} is no JSON: {error}", REJECTED) from None
        if order:
            _print_order(order_document(manifest), as_json)
            return
        proofs = {row.statement_id: row for row in record.proofs}
        spent: dict[str, int] = {}
        for opening in record.openings:
            spent[opening.commitment_id] = spent.get(opening.commitment_id, 0) + 1
        shown = {
            "run": record.run.run_id, "created": str(record.run.created), "manifest_sha256": record.run.manifest_digest,
            "manifest": manifest,
            "commitments": [
                {"name": row.name, "window": row.window, "id": row.commitment_id, "budget": row.budget,
                 "openings": spent.get(row.commitment_id, 0)} for row in record.commitments
            ],
            "statements": [
                {"statement": row.statement_id, "kind": row.kind, "window": row.window, "layer": row.layer, "part": row.part}
                | _proof_columns(proofs.get(row.statement_id)) for row in record.statements
            ],
            "verdicts": [
                {"verification": row.verification, "subject": row.subject, "verifier": row.verifier, "accepted": row.accepted,
                 "reason": row.reason} for row in record.verdicts
            ],
            "events": [{"kind": row.kind, "window": row.window, "detail": json.loads(row.detail)} for row in record.events],
        }
        emit_json(shown) if as_json else _print_run(shown)


def _proof_columns(proof: Any) -> dict[str, Any]:
    if proof is None:
        return {"proof": None}
    return {"proof": proof.object_digest, "bytes": proof.size, "prover": proof.prover, "seconds": round(proof.seconds, 3)}


def _print_order(document: dict[str, Any], as_json: bool) -> None:
    if as_json:
        emit_json(document)
        return
    import yaml

    print("# What this run was asked for. Remove the lines that you do not want compared.")
    print("# Compare: verilora verify RUN --expect order.yaml")
    print(yaml.safe_dump(document, sort_keys=True, default_flow_style=False, width=120), end="")


def _print_run(shown: dict[str, Any]) -> None:
    from rich.table import Table

    console.print(f"run {shown['run']}, created {shown['created']}, manifest SHA-256 {shown['manifest_sha256']}", soft_wrap=True)
    commitments = Table("commitment", "window", "id", "openings / budget")
    for row in shown["commitments"]:
        budget = "unlimited" if row["budget"] is None else str(row["budget"])
        commitments.add_row(row["name"], _dash(row["window"]), row["id"][:16] + "…", f"{row['openings']} / {budget}")
    console.print(commitments)
    statements = Table("task", "window", "layer", "part", "proof", "bytes", "seconds")
    for row in shown["statements"]:
        proof = row["proof"][:16] + "…" if row["proof"] else "none"
        statements.add_row(row["kind"], _dash(row["window"]), _dash(row["layer"]), str(row["part"]), proof,
                           f"{row.get('bytes', 0):,}", str(row.get("seconds", "")))
    console.print(statements)
    for event in shown["events"]:
        console.print(f"{event['kind']} {event['detail']}", soft_wrap=True, markup=False)


def _dash(number: int) -> str:
    return "–" if number < 0 else str(number)


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
