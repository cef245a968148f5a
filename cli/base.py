"""`verilora base check`: is a run's public base model the one in this folder?"""

from pathlib import Path
from typing import Annotated

import typer

from cli.options import Config, Debug, Json, LedgerUrl, Run, places
from cli.output import FINE, REJECTED, console, emit_json, reporting

base = typer.Typer(no_args_is_help=True, help="Compare a run's public base model with one that you have.")


@base.callback()
def _base() -> None:
    """`check` stays a command of its own name."""


@base.command("check")
def base_check(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A Hugging Face folder: config.json and safetensors.")],
    run: Run, config: Config = None, ledger_url: LedgerUrl = None, as_json: Json = False, debug: Debug = False,
) -> None:
    """Recompute the commitments of a public base model from its folder; exit 0 if they are the run's, 1 if not."""
    with reporting(debug):
        from protocol.manifest import RunManifest
        from storage.ledger import open_ledger
        from tasks.base_check import check_base
        from tasks.record import find_run

        row = find_run(open_ledger(places(config, ledger_url, None)[0], read_only=True), run)
        checks = check_base(model, RunManifest.from_json(row.manifest.encode()))
        accepted = all(check.accepted for check in checks)
        if as_json:
            emit_json({
                "run": row.run_id, "accepted": accepted,
                "commitments": [{"name": c.name, "id": c.recorded, "accepted": c.accepted, "reason": c.reason} for c in checks],
            })
        else:
            lines = [f"{c.name}: {c.reason or 'is ' + c.recorded}" for c in checks]
            lines.append(f"yes: {model} is the base model that run {row.run_id} committed to; `verilora verify` says whether it proved the "
                         f"training on it" if accepted else f"no: {model} is not the base model of run {row.run_id}")
            for line in lines:
                console.print(line, markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(FINE if accepted else REJECTED)
