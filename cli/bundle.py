"""`verilora ledger export` writes a run's bundle for offline verification; `verilora ledger submit` appends a signed receipt."""

from pathlib import Path
from typing import Annotated

import typer

from cli.options import Config, Debug, Json, LedgerUrl, ObjectsUrl, Run, places
from cli.output import USAGE, complain, console, emit_json, reporting


def export(
    run: Run, file: Annotated[Path, typer.Argument(metavar="FILE", help="The bundle to write; an existing file is never replaced.")],
    since: Annotated[int, typer.Option("--since", min=0, help="Prove that the log continues one of this size, seen earlier.")] = 0,
    cosigned: Annotated[bool, typer.Option("--cosigned", help="Under the newest checkpoint that cosigners signed.")] = False,
    config: Config = None, ledger_url: LedgerUrl = None, objects_url: ObjectsUrl = None, as_json: Json = False, debug: Debug = False,
) -> None:
    """Write one file with everything public about a run: rows, inclusion proofs, checkpoint, proofs."""
    with reporting(debug):
        from storage.bundle import export_bundle
        from storage.ledger import open_ledger
        from storage.log import LogPublisher
        from storage.object_store import open_object_store
        from tasks.record import find_run

        where, objects = places(config, ledger_url, objects_url)
        if not objects:
            raise complain("--ledger needs --objects: where the proofs are, file:PATH", USAGE)
        if file.exists():
            raise complain(f"{file} exists and is left as it is: name a new file", USAGE)
        book = open_ledger(where, read_only=True)
        run_id, log = find_run(book, run).run_id, LogPublisher(book, open_object_store(objects, read_only=True))
        rows, proofs = export_bundle(file, log, run_id, since, cosigned)
        size = file.stat().st_size
        if as_json:
            emit_json({"run": run_id, "file": str(file), "bytes": size, "rows": rows, "proofs": proofs})
            return
        for line in (f"wrote {file}: run {run_id}, {rows} rows, {proofs} proofs, {size:,} bytes",
                     f"anybody verifies it offline: verilora-verify {file}   (the wheel of `make wheel`)"):
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def submit(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A receipt that `verify --receipt` wrote.")],
    config: Config = None, ledger_url: LedgerUrl = None, as_json: Json = False, debug: Debug = False,
) -> None:
    """Append a signed verdict to the ledger; its signature, run, manifest and log must be this ledger's."""
    with reporting(debug):
        from storage.ledger import open_ledger
        from tasks.verify import submit as append

        try:
            envelope = file.read_bytes()
        except OSError as error:
            raise complain(f"{file} cannot be read: {error.strerror}", USAGE) from None
        run_id, fresh = append(open_ledger(places(config, ledger_url, None)[0]), envelope)
        if as_json:
            emit_json({"run": run_id, "file": str(file), "new": fresh})
            return
        text = f"appended the verdict on run {run_id}; it enters the signed log with the next checkpoint"
        console.print(text if fresh else f"the ledger has this verdict on run {run_id} already", highlight=False, soft_wrap=True)
