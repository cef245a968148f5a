"""`verilora adapter export` (provider: hand over the adapter) and `verilora adapter check` (customer: is it the one?)."""

from pathlib import Path
from typing import Annotated

import typer

from cli.options import Config, Debug, Json, LedgerUrl, Run, places
from cli.output import FINE, REJECTED, USAGE, complain, console, emit_json, reporting

adapter = typer.Typer(no_args_is_help=True, help="Hand over a trained adapter, and check one.")

Signer = Annotated[
    Path | None, typer.Option("--signer", exists=True, dir_okay=False, help="The provider's public key (PEM): check model.sig as well.")
]
Receipt = Annotated[
    Path | None, typer.Option("--receipt", exists=True, dir_okay=False, help="An auditor's: must accept this run with this adapter.")
]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The adapter's folder.")]


@adapter.command("export")
def adapter_export(
    run: Run, folder: Folder,
    base_model: Annotated[str | None, typer.Option(
        "--base-model", help="The base model as whoever gets the adapter finds it: PEFT records this (default: its public name).")] = None,
    config: Config = None, as_json: Json = False, debug: Debug = False,
) -> None:
    """Write a run's adapter as a signed PEFT folder (new or empty), with the opening that proves whose it is. Needs the private store."""
    from flows.config import load_config
    from protocol.manifest import RunManifest
    from storage.ledger import open_ledger
    from storage.private import open_private_store
    from tasks.adapter import export_adapter
    from tasks.deliver import delivered
    from tasks.record import find_run, recorded_root
    from tasks.signature import sign_folder, signing_key

    with reporting(debug):
        loaded = load_config(config or Path("run.yaml"))
        ledger = open_ledger(loaded.ledger_url, read_only=True)
        row = find_run(ledger, run)
        manifest = RunManifest.from_json(row.manifest.encode())
        private = open_private_store(loaded.private_url)
        secrets = delivered(private, row.run_id, manifest, recorded_root(ledger, row.run_id))
        written = export_adapter(folder, manifest, row.run_id, base_model or manifest.name, secrets)
        written.append(sign_folder(folder, signing_key(private)))
        if as_json:
            emit_json({"run": row.run_id, "files": [str(path) for path in written]})
            return
        for path in written:
            console.print(f"wrote {path}", markup=False, highlight=False, soft_wrap=True)
        console.print("opening.json goes to whoever gets the adapter; they check both with: verilora adapter check DIR RUN", soft_wrap=True)


@adapter.command("key")
def adapter_key(config: Config = None, debug: Debug = False) -> None:
    """Print the public key that exported adapters are signed for; hand it to customers by another way than the adapter."""
    from flows.config import load_config
    from storage.private import open_private_store
    from tasks.signature import public_key, signing_key

    with reporting(debug):
        print(public_key(signing_key(open_private_store(load_config(config or Path("run.yaml")).private_url))).decode(), end="")


@adapter.command("check")
def adapter_check(
    folder: Folder, run: Run,
    signer: Signer = None,
    receipt: Receipt = None,
    config: Config = None, ledger_url: LedgerUrl = None, as_json: Json = False, debug: Debug = False,
) -> None:
    """Check that a folder's weights are the ones that a run proved; exit 0 if so, 1 if not."""
    from protocol.errors import VerificationError
    from protocol.manifest import RunManifest
    from prover.files.adapter import AdapterFileError
    from storage.ledger import open_ledger
    from tasks.adapter import LayerCheck, check_adapter, receipt_fault
    from tasks.record import commitment_roots, find_run
    from tasks.signature import SignatureError, check_signature

    with reporting(debug):
        book = open_ledger(places(config, ledger_url, None)[0], read_only=True)
        record = book.record(find_run(book, run).run_id)
        manifest = RunManifest.from_json(record.run.manifest.encode())
        roots, _ = commitment_roots(record.commitments)
        if not folder.is_dir():
            raise complain(f"{folder} is no folder: give the one that `verilora adapter export` wrote", USAGE)
        envelope = receipt.read_bytes() if receipt else b""
        checks: list[LayerCheck] = []
        try:
            if signer is not None:
                check_signature(folder, signer.read_bytes())
            checks = check_adapter(folder, manifest, roots)
            reason = receipt_fault(envelope, record.run, checks) if receipt else ""
        except (AdapterFileError, SignatureError, VerificationError) as error:
            reason = str(error)
        accepted = not reason and all(check.accepted for check in checks)
        if as_json:
            emit_json({
                "run": record.run.run_id, "accepted": accepted, "reason": reason,
                "layers": [{"layer": c.layer, "commitment": c.commitment, "accepted": c.accepted, "reason": c.reason} for c in checks],
            })
        else:
            for c in checks:
                console.print(f"layer {c.layer}: {c.reason or 'opens ' + c.commitment}", markup=False, highlight=False, soft_wrap=True)
            if reason:
                console.print(reason, markup=False, highlight=False, soft_wrap=True)
            refusal = "no: this folder is not accepted" if reason else "no: these are not the weights of this run"
            verdict = f"yes: these are the weights that run {record.run.run_id} committed to; {_who(envelope)}" if accepted else refusal
            console.print(verdict, markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(FINE if accepted else REJECTED)


def _who(envelope: bytes) -> str:
    """Whose word it is that the run was proved."""
    from verifier.receipt import verify_receipt

    if not envelope:
        return "`verilora verify` says whether it proved them"
    return f"whoever has the key {verify_receipt(envelope)['predicate']['verifier']['key']} verified that it delivered them"
