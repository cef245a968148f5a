"""`verilora ledger runs` and `verilora ledger show`: what a ledger says, read-only; nothing here is a verdict."""

import json
from typing import Annotated, Any

import typer

from cli.options import Config, Debug, Json, LedgerUrl, Run, places
from cli.output import REJECTED, complain, console, emit_json, reporting

ledger = typer.Typer(no_args_is_help=True, help="Query the audit ledger.")


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
