"""`verilora fsck`, `verilora repair`, `verilora links`: is everything still there, bring back what can be brought back, and let an
auditor without credentials read a run's proofs from a bucket.

fsck changes nothing and ends with exit code 1 if anything is wrong. repair ends with 1 if something could not be restored.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import Config, Debug, Json, LedgerUrl, ObjectsUrl, Run, places
from cli.output import FINE, REJECTED, USAGE, complain, console, emit_json, errors, reporting

if TYPE_CHECKING:
    from verifier.note import Policy

PolicyFile = Annotated[Path | None, typer.Option(
    "--policy", help="Trusted log keys and cosigners (default: the key in run.yaml's private store; with --ledger none).")]


def fsck(
    policy: PolicyFile = None, config: Config = None, ledger_url: LedgerUrl = None, objects_url: ObjectsUrl = None,
    as_json: Json = False, debug: Debug = False,
) -> None:
    """Derive everything again from rows and objects; name each row, object and file that is wrong. Changes nothing."""
    from storage.fsck import fsck as check
    from storage.ledger import open_ledger
    from storage.object_store import open_object_store

    with reporting(debug):
        ledger, objects = _places(config, ledger_url, objects_url)
        trusted = _policy(policy, config, ledger_url)
        found = []
        with _progress(quiet=as_json) as progress:
            for item in check(open_ledger(ledger, read_only=True), open_object_store(objects, read_only=True), trusted, progress):
                found.append(item)
                if not as_json:
                    _print(f"{'note' if item.harmless else 'WRONG'}  {item.kind}  {item.where}: {item.what}")
        wrong = sum(not item.harmless for item in found)
        if as_json:
            emit_json({"clean": not wrong, "signatures_checked": trusted is not None, "findings": [asdict(item) for item in found]})
        else:
            signatures = "" if trusted else "; the log's signatures were not checked, give --policy FILE"
            _print(f"{wrong} wrong: see verilora repair --help{signatures}" if wrong else f"everything is as it was written{signatures}")
        raise typer.Exit(REJECTED if wrong else FINE)


def repair(
    sources: Annotated[list[str] | None, typer.Option(
        "--from", help="A replica: objects (file:PATH, s3://…) or ledger (sqlite:///PATH, postgresql+psycopg://…). Repeatable.")] = None,
    policy: PolicyFile = None, config: Config = None, ledger_url: LedgerUrl = None, objects_url: ObjectsUrl = None,
    as_json: Json = False, debug: Debug = False,
) -> None:
    """Restore lost or damaged objects, lost rows and the log's files; say what cannot be restored. Damaged bytes are kept."""
    from storage.ledger import open_ledger
    from storage.object_store import open_object_store
    from storage.repair import repair as restore
    from tasks.upkeep import replicas

    with reporting(debug):
        ledger, objects = _places(config, ledger_url, objects_url)
        copies, ledgers = replicas(sources or ())
        trusted = _policy(policy, config, ledger_url)
        done = []
        with _progress(quiet=as_json) as progress:
            for item in restore(open_ledger(ledger), open_object_store(objects), copies, ledgers, trusted, progress):
                done.append(item)
                if not as_json:
                    _print(f"{'restored' if item.done else 'LOST'}  {item.where}: {item.what}")
        lost = sum(not item.done for item in done)
        if as_json:
            emit_json({"restored": [asdict(i) for i in done if i.done], "lost": [asdict(i) for i in done if not i.done]})
        else:
            _print(f"{len(done) - lost} restored, {lost} not. `verilora fsck` looks at everything again" if done else "nothing to restore")
        raise typer.Exit(REJECTED if lost else FINE)


def links(
    run: Run, hours: Annotated[float, typer.Option("--hours", min=0.01, max=168, help="How long the links are valid.")] = 24.0,
    config: Config = None, ledger_url: LedgerUrl = None, objects_url: ObjectsUrl = None, as_json: Json = False, debug: Debug = False,
) -> None:
    """Print links with which anybody can read a run's proofs from its bucket for some hours, without credentials."""
    from storage.ledger import open_ledger
    from storage.object_store import open_object_store
    from tasks.record import find_run

    with reporting(debug):
        ledger, objects = _places(config, ledger_url, objects_url)
        if not objects.startswith("s3:"):
            raise complain("only objects in a bucket (s3://…) have links; hand over a bundle instead: verilora ledger export", USAGE)
        from storage.s3 import S3ObjectStore

        book, store = open_ledger(ledger, read_only=True), open_object_store(objects, read_only=True)
        proofs = book.record(find_run(book, run).run_id).proofs
        made = {p.object_digest: store.link(p.object_digest, int(hours * 3600)) for p in proofs} if isinstance(store, S3ObjectStore) else {}
        if as_json:
            emit_json(made)
            return
        for link in made.values():
            print(link)


def _places(config: Path | None, ledger_url: str | None, objects_url: str | None) -> tuple[str, str]:
    ledger, objects = places(config, ledger_url, objects_url)
    if not objects:
        raise complain("--ledger needs --objects: where the proofs are, file:PATH or s3://BUCKET/PREFIX", USAGE)
    return ledger, objects


def _policy(file: Path | None, config: Path | None, ledger_url: str | None) -> "Policy | None":
    """Whose signatures the log must have: a file's, or those of the provider's own key if it is at hand."""
    from tasks.trust import read_policy
    from tasks.upkeep import own_policy

    if file is not None:
        return read_policy(file)
    if ledger_url is not None:
        return None
    from flows.config import load_config

    return own_policy(load_config(config or Path("run.yaml")).private_url)


@contextlib.contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, disable=quiet, transient=True) as progress:
        bars: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in bars:
                bars[stage] = progress.add_task(stage, total=None)
            progress.update(bars[stage], completed=done, total=total or None)

        yield show


def _print(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
