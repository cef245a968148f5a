"""`verilora ledger query` and `verilora ledger show`: what a ledger says, read-only; nothing here is a verdict."""

import json
from typing import Annotated, Any

import typer

from cli.options import Config, Debug, Json, LedgerUrl, Run, places
from cli.output import REJECTED, complain, console, emit_json, reporting, visible

ledger = typer.Typer(no_args_is_help=True, help="Query the audit ledger.")


def order_document(manifest: dict[str, Any]) -> dict[str, Any]:
    """What a customer orders, out of a manifest: everything but what the provider alone determines (exponents, budgets …)."""
    keys = (
        "model", "lora", "optimizer", "batch_size", "gradient_accumulation", "sequence_length", "steps", "seed", "examples", "publish_loss",
        "profile", "weight_scales", "tokenizer_digest", "dataset_owner", "commitments",
    )
    widths = {key: manifest["widths"][key] for key in ("weight", "head")}
    return {key: manifest[key] for key in keys if key in manifest} | {"widths": widths}


@ledger.command("query")
def ledger_query(
    model: Annotated[str | None, typer.Option("--model", help="The name in the manifest.")] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", help="The dataset's commitment id.")] = None,
    since: Annotated[str | None, typer.Option("--since", metavar="YYYY-MM-DD", help="Created on this day (UTC) or later.")] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="YYYY-MM-DD", help="Created on this day (UTC) or earlier.")] = None,
    state: Annotated[str | None, typer.Option("--state", help="training, proving, finished or overflow.")] = None,
    verifier: Annotated[str | None, typer.Option("--verifier", help="Somebody of this name gave a verdict on the run.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=500, help="The most runs of one page.")] = 50,
    after: Annotated[str | None, typer.Option("--after", help="`next` of the page before.")] = None,
    config: Config = None, ledger_url: LedgerUrl = None, as_json: Json = False, debug: Debug = False,
) -> None:
    """List the runs in a ledger, newest first; every filter is an exact value."""
    from api.listing import find_runs
    from api.schemas import Page, RunItem
    from storage.ledger import open_ledger

    with reporting(debug):
        book = open_ledger(places(config, ledger_url, None)[0], read_only=True)
        runs, following = find_runs(
            book, model=model, dataset=dataset, since=since, until=until, state=state, verifier=verifier, limit=limit, after=after
        )
        if as_json:
            emit_json(Page[RunItem](items=[RunItem.of(run) for run in runs], next=following).model_dump(mode="json"))
            return
        from rich.markup import escape
        from rich.table import Table

        table = Table("run", "model", "state", "proofs", "verdicts", "created")
        for column in table.columns:
            column.overflow, column.no_wrap = "fold", column.header in ("run", "state", "proofs", "verdicts", "created")
        for run in runs:
            said = f"{run.accepted} accepted" if run.verifiers else "none"
            created = run.created.strftime("%Y-%m-%d")
            begins = run.run_id[:16]  # which every command takes for the whole id
            proofs = f"{run.proofs} of {run.statements}" if run.state == "finished" else f"{run.proofs} so far"  # others have no row yet
            table.add_row(*map(escape, (begins, run.model, run.state, proofs, said, created)))
        console.print(table if runs else "No run matches." if any((model, dataset, since, until, state, verifier, after))
                      else "The ledger has no runs.")
        if following:
            console.print(f"more: --after {following}", soft_wrap=True, markup=False, highlight=False)


@ledger.command("show")
def ledger_show(
    run: Run, order: Annotated[bool, typer.Option("--order", help="Print an order document that this run fulfils.")] = False,
    config: Config = None, ledger_url: LedgerUrl = None, as_json: Json = False, debug: Debug = False,
) -> None:
    """Show one run's rows, or the order that it fulfils."""
    from api.claims import losses, part
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
        dataset = part(manifest, "commitments", "dataset")
        sharing = book.query_runs(dataset=dataset, limit=20) if isinstance(dataset, str) else []
        proofs = {row.statement_id: row for row in record.proofs}
        spent: dict[str, int] = {}
        for opening in record.openings:
            spent[opening.commitment_id] = spent.get(opening.commitment_id, 0) + 1
        shown = {
            "run": record.run.run_id, "created": str(record.run.created), "manifest_sha256": record.run.manifest_digest,
            "manifest": manifest,
            "dataset": {
                "id": dataset, "committed_by": part(manifest, "dataset_owner") or "the provider",
                "other_runs": [other.run_id for other in sharing if other.run_id != record.run.run_id],
            },
            "loss_claimed": [
                {"step": point.step, "loss": point.loss, "statement": point.statement_id}
                for point in losses(manifest, (row for row in record.statements if row.kind == "head"))
            ],
            "commitments": [
                {"name": row.name, "window": row.window, "id": row.commitment_id, "budget": row.budget,
                 "salts": "public" if row.budget is None else "secret", "openings": spent.get(row.commitment_id, 0)}
                for row in record.commitments
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


@ledger.command("roles")
def ledger_roles() -> None:
    """Print the SQL for a PostgreSQL server's administrator that makes the ledger's roles (writer, reader, auditor)."""
    from storage.postgres import roles_sql

    print("-- run by a superuser in the ledger's database, after `verilora run` has made its tables")
    print("-- give each role that logs in with a password one: ALTER ROLE verilora_reader PASSWORD '…'")
    print(roles_sql(), end="")


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
    from rich.markup import escape
    from rich.table import Table

    headline = f"run {shown['run']}, created {shown['created']}, manifest SHA-256 {shown['manifest_sha256']}"
    console.print(visible(headline), soft_wrap=True, markup=False)
    dataset = shown["dataset"]
    others = f"; also used by {', '.join(dataset['other_runs'])}" if dataset["other_runs"] else "; no other run in this ledger uses it"
    console.print(visible(f"dataset {dataset['id']}, committed by {dataset['committed_by']}{others}"), soft_wrap=True, markup=False)
    commitments = Table("commitment", "window", "id", "salts", "openings / budget")
    for row in shown["commitments"]:
        budget = "unlimited" if row["budget"] is None else str(row["budget"])
        name, short = escape(row["name"]), escape(row["id"][:16]) + "…"
        commitments.add_row(name, _dash(row["window"]), short, row["salts"], f"{row['openings']} / {budget}")
    console.print(commitments)
    statements = Table("task", "window", "layer", "part", "proof", "bytes", "seconds")
    for row in shown["statements"]:
        proof = escape(row["proof"][:16]) + "…" if row["proof"] else "none"
        statements.add_row(escape(row["kind"]), _dash(row["window"]), _dash(row["layer"]), str(row["part"]), proof,
                           f"{row.get('bytes', 0):,}", str(row.get("seconds", "")))
    console.print(statements)
    if shown["loss_claimed"]:
        losses = Table("step", "loss", title="loss as the statements claim it; `verilora verify` certifies it", title_justify="left")
        for point in shown["loss_claimed"]:
            losses.add_row(str(point["step"]), f"{point['loss']:.6f}")
        console.print(losses)
    for event in shown["events"]:
        console.print(visible(f"{event['kind']} {event['detail']}"), soft_wrap=True, markup=False)


def _dash(number: int) -> str:
    return "–" if number < 0 else str(number)
