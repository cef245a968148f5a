"""`verilora verify`: an independent verdict on a run of a live ledger or on an exported bundle; report and signed receipt.

Both are judged by the same functions (verifier/evidence.py). The process never imports the prover, torch or Prefect
(tests/cli/test_verify.py). The ledger is opened read-only, except with `--record`.
"""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import Config, Debug, Json, LedgerUrl, ObjectsUrl, places
from cli.output import FINE, REJECTED, USAGE, complain, console, emit_json, errors, reporting, visible

if TYPE_CHECKING:
    from storage.ledger import Ledger
    from verifier.bundle import Bundle
    from verifier.evidence import Verdict
    from verifier.run import TaskVerdict

RunOrBundle = Annotated[str, typer.Argument(metavar="RUN|BUNDLE", help="A run's id or its beginning, or the file of an exported bundle.")]
SignKey = Annotated[Path | None, typer.Option(
    "--sign-key", help="Key that signs receipts; generated if absent (default: in the user's configuration folder).")]
Verifier = Annotated[str, typer.Option("--verifier", help="Who verifies, as receipts and ledger say.")]


def verify(
    run: RunOrBundle,
    expect: Annotated[Path | None, typer.Option("--expect", help="order.yaml: what was ordered; any difference rejects.")] = None,
    policy: Annotated[Path | None, typer.Option("--policy", help="Trusted log keys and cosigners; without it none is checked.")] = None,
    seen: Annotated[Path | None, typer.Option("--seen", help="Remembers the log's checkpoint here; a rollback or fork rejects.")] = None,
    sample: Annotated[int | None, typer.Option("--sample", min=1, help="Look at this many tasks only, drawn by --beacon.")] = None,
    beacon: Annotated[str, typer.Option("--beacon", help="Public randomness, hexadecimal, unknown when the log was signed.")] = "",
    state: Annotated[Path | None, typer.Option("--state", help="Remembers accepted tasks here, so that the next call goes on.")] = None,
    report_folder: Annotated[Path | None, typer.Option("--report", help="Write report.html and report.json here.")] = None,
    receipt: Annotated[Path | None, typer.Option("--receipt", help="Write the signed verdict, for `verilora ledger submit`.")] = None,
    record: Annotated[bool, typer.Option("--record", help="Append the signed verdict to the ledger.")] = False,
    sign_key: SignKey = None, verifier: Verifier = "verilora verify",
    config: Config = None, ledger_url: LedgerUrl = None, objects_url: ObjectsUrl = None,
    workers: Annotated[int | None, typer.Option("--workers", min=1, max=64, help="Processes (default: one for each core).")] = None,
    as_json: Json = False, debug: Debug = False,
) -> None:
    """Verify a run independently: log, chain, statements, proofs. Exit 0 if accepted (or a sample passed), 1 if rejected."""
    with reporting(debug, interrupted="interrupted: no verdict"):
        from protocol.errors import VerificationError
        from tasks.resume import Accepted
        from tasks.trust import read_order, read_policy, read_seen
        from tasks.verify import default_key, submit
        from verifier.evidence import Verdict
        from verifier.receipt import load_key, sign_receipt
        from verifier.report import report, write_report, write_whole
        from verifier.sample import Sample

        if (sample is None) != (not beacon):
            raise complain("--sample and --beacon belong together: K tasks, drawn by public randomness", USAGE)
        order = read_order(expect) if expect else None
        trusted = read_policy(policy) if policy else None
        before = read_seen(seen, trusted) if seen else None
        drawn = Sample(beacon, sample) if sample is not None else None
        known = Accepted(state) if state else None
        key = load_key(sign_key or default_key()) if receipt or record else None
        started, book = time.monotonic(), None
        try:
            cosigned = trusted is not None and trusted.quorum != "none"
            bundle, book = _evidence(run, before.size if before else 0, cosigned, (config, ledger_url, objects_url), record)
            arguments = {"policy": trusted, "seen": before, "sample": drawn, "accepted": known}
            verdict = _judge(bundle, order, workers, arguments, quiet=as_json)
        except VerificationError as error:  # a file that is no bundle
            verdict = Verdict("", b"", str(error), "")
        values = report(verdict) | {"seconds": round(time.monotonic() - started, 3)}
        if report_folder:
            write_report(report_folder, values)
        if key and verdict.checkpoint:
            envelope = sign_receipt(values, verifier, key)
            if receipt:
                write_whole(receipt, envelope)
        if seen and verdict.rows:
            write_whole(seen, verdict.checkpoint)
        emit_json(values) if as_json else _print_verdict(values)
        if book and record and key and verdict.checkpoint:
            submit(book, envelope)  # last, since who may not append has the verdict all the same
        raise typer.Exit(REJECTED if verdict.state == "rejected" else FINE)


def _evidence(
    run: str, since: int, cosigned: bool, where: tuple[Path | None, str | None, str | None], record: bool
) -> "tuple[Bundle, Ledger | None]":
    from storage.ledger import open_ledger
    from storage.log import LogPublisher
    from storage.object_store import open_object_store
    from tasks.record import collect, find_run
    from verifier.bundle import read_bundle

    if Path(run).is_file():
        if record:
            raise complain("--record needs a run of a ledger: write a --receipt, and `verilora ledger submit` it later", USAGE)
        return read_bundle(run), None
    if "/" in run or "." in run:
        raise complain(f"there is no file {run}, and no run's id looks like that: give a bundle's file, or a run's id", USAGE)
    ledger, objects = places(*where)
    if not objects:
        raise complain("--ledger needs --objects: where the proofs are, file:PATH", USAGE)
    book = open_ledger(ledger, read_only=not record)
    log = LogPublisher(book, open_object_store(objects, read_only=True))
    return collect(log, find_run(book, run).run_id, since, cosigned), book


def _judge(bundle: "Bundle", order: dict[str, Any] | None, workers: int | None, arguments: dict[str, Any], quiet: bool) -> "Verdict":
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from tasks.verify import judge

    last = TextColumn("{task.description}")
    columns = (TextColumn("verifying"), BarColumn(), MofNCompleteColumn(), TextColumn("tasks"), TimeElapsedColumn(), last)
    with Progress(*columns, console=errors, disable=quiet, transient=True) as progress:
        bar = progress.add_task("", total=None)

        def show(item: "TaskVerdict", total: int) -> None:
            progress.update(bar, advance=1, total=total, description=str(item.task))

        return judge(bundle, order, workers, show, **arguments)


def _print_verdict(values: dict[str, Any]) -> None:
    from rich.table import Table

    if values["tasks"]:
        table = Table("task", "verdict", "bits", "proof bytes")
        for item in values["tasks"]:
            state = "[green]accepted[/]" if item["accepted"] else "[bold red]rejected[/]"
            table.add_row(item["task"], state, str(item["bits"] or "–"), f"{item['proof_bytes']:,}")
        console.print(table)
        for item in values["tasks"]:
            if not item["accepted"]:
                _plain_line(f"{item['task']}: {item['reason']}")
    if values["public"]:
        table = Table("what became public", "", show_lines=False)
        for topic, value in values["public"].items():
            table.add_row(topic, _short(value))
        console.print(table)
    from rich.markup import escape

    colour = {"accepted": "green", "rejected": "red"}.get(values["state"], "yellow")
    summary = f"[bold {colour}]{values['state'].upper()}[/] run {escape(visible(values['run']))}"
    if values["tasks"]:
        summary += (f": {len(values['tasks'])} tasks, {values['proof_bytes']:,} proof bytes, {values['bits']} bits per proof "
                    f"({values['total_bits']} for all of them), {values['seconds']:.1f} s")
    console.print(summary, soft_wrap=True, highlight=False)
    for line in (values["reason"], values["sample"], values["order"], values["log"].get("trust", "")):
        if line:
            _plain_line(line)


def _plain_line(text: str) -> None:
    console.print(visible(text), markup=False, highlight=False, soft_wrap=True)


def _short(value: Any, limit: int = 240) -> str:
    from rich.markup import escape

    text = visible(_plain(value))
    return escape(text if len(text) <= limit else text[:limit] + " … (all of it with --json)")


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    return " ".join(str(item) for item in value) if isinstance(value, list) else str(value)
