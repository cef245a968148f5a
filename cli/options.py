"""Options that several commands have, and where they say that ledger and objects are."""

from pathlib import Path
from typing import Annotated

import typer

from cli.output import USAGE, complain

Run = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, or a beginning of it that no other run has.")]
Config = Annotated[Path | None, typer.Option("--config", help="The run.yaml that says where things are (default: run.yaml).")]
LedgerUrl = Annotated[str | None, typer.Option(
    "--ledger", help="The ledger, sqlite:///PATH or postgresql+psycopg://USER@HOST/DATABASE, instead of --config.")]
ObjectsUrl = Annotated[str | None, typer.Option(
    "--objects", help="The object store, file:PATH or s3://BUCKET/PREFIX?endpoint=…, instead of --config.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]


def places(config: Path | None, ledger_url: str | None, objects_url: str | None) -> tuple[str, str]:
    """URLs of ledger and object store, from run.yaml or from the options."""
    if ledger_url is not None and config is None:
        return ledger_url, objects_url or ""
    if ledger_url is not None or objects_url is not None:
        raise complain("give either --config, or --ledger and --objects", USAGE)
    if config is None and not Path("run.yaml").exists():
        raise complain("there is no run.yaml in this folder: name one with --config, or the ledger with --ledger (and --objects)", USAGE)
    from flows.config import load_config

    loaded = load_config(config or Path("run.yaml"))
    return loaded.ledger_url, loaded.objects_url
