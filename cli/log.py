"""`verilora log`: the transparency log of the ledger. The provider signs, publishes and rotates keys; auditors check and cosign.

`check` and `cosign` trust nothing but a policy file: the provider's `verilora log key --policy`, received by a way that the
auditor trusts. `cosign` keeps what it saw in a file of its own and refuses forks, rollbacks and foreign logs.
"""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import Config, Debug, Json, LedgerUrl, ObjectsUrl, places
from cli.output import USAGE, complain, console, emit_json, reporting, visible

if TYPE_CHECKING:
    from storage.log import LogPublisher
    from verifier.note import Policy

log = typer.Typer(no_args_is_help=True, help="The signed, append-only log of the ledger's rows.")

PolicyFile = Annotated[Path, typer.Option("--policy", help="Whom to believe: the log's key, cosigners, quorum (C2SP tlog-policy).")]
Out = Annotated[Path | None, typer.Option("--out", help="Write here instead of to standard output; an existing file is kept.")]
Cosigned = Annotated[bool, typer.Option("--cosigned", help="Under the newest checkpoint that cosigners signed.")]
MAX_FILE = 1 << 27


@log.command("show")
def log_show(
    config: Config = None, ledger_url: LedgerUrl = None, objects_url: ObjectsUrl = None, as_json: Json = False, debug: Debug = False
) -> None:
    """Show the newest checkpoint, who signed it, and how many entries came after it. Nothing here is verified."""
    from verifier.note import split_note

    with reporting(debug):
        publisher = _reader(config, ledger_url, objects_url)
        size, notes = publisher.ledger.log_size(), {"newest": publisher.newest_note(), "cosigned": publisher.newest_note(cosigned=True)}
        shown: dict[str, Any] = {"entries": size, "checkpoints": len(publisher.ledger.checkpoints())}
        for name, note in notes.items():
            if note:
                checkpoint, lines = split_note(note)
                shown[name] = {
                    "origin": checkpoint.origin, "size": checkpoint.size, "root": checkpoint.root.hex(),
                    "signatures": [f"{signer}+{value[:4].hex()}" for signer, value in lines],
                }
            else:
                shown[name] = None
        if as_json:
            emit_json(shown)
            return
        newest = shown["newest"]
        _print(f"{size} entries, {shown['checkpoints']} checkpoints, {size - (newest['size'] if newest else 0)} entries not signed yet")
        for name in notes:
            found = shown[name]
            signers = f", root {found['root']}, signed by {', '.join(found['signatures'])}" if found else ""
            _print(f"{name}: {found['origin']}, {found['size']} entries{signers}" if found else f"{name}: none")


@log.command("key")
def log_key(
    policy: Annotated[bool, typer.Option("--policy", help="Print the policy file that auditors need.")] = False,
    origin: Annotated[str, typer.Option("--origin", help="The log's name, before its first use: example.com/verilora.")] = "",
    config: Config = None, as_json: Json = False, debug: Debug = False,
) -> None:
    """Print the log's public key; the first time, make the key (in the private store, never shown)."""
    with reporting(debug):
        keys = _publisher(config).keys(origin)
        if as_json:
            retired = [{"key": str(key), "until": until} for key, until in keys.retired]
            emit_json({"origin": keys.current.name, "key": str(keys.current.public), "retired": retired, "policy": keys.policy_text()})
        else:
            print(keys.policy_text() if policy else keys.current.public, end="" if policy else "\n")


@log.command("checkpoint")
def log_checkpoint(out: Out = None, config: Config = None, as_json: Json = False, debug: Debug = False) -> None:
    """Sign and publish everything that the ledger holds, and print the newest checkpoint. Makes or upgrades the ledger's tables."""
    from verifier.note import split_note

    with reporting(debug):
        publisher = _publisher(config)
        signed = publisher.publish()
        note = publisher.newest_note()
        if not note:
            if out:
                raise complain("the ledger is empty: there is nothing to sign", USAGE)
            emit_json({"size": 0, "new": False, "note": ""}) if as_json else _print("the ledger is there and empty: nothing to sign yet")
        elif as_json:
            emit_json({"size": split_note(note)[0].size, "new": signed is not None, "note": note.decode()})
        else:
            _write(note, out)


@log.command("prove")
def log_prove(
    entry: Annotated[str, typer.Argument(metavar="POSITION|STATEMENT", help="A log entry's number, or a statement id: its proof's row.")],
    out: Out = None, cosigned: Cosigned = False, config: Config = None, ledger_url: LedgerUrl = None, objects_url: ObjectsUrl = None,
    debug: Debug = False,
) -> None:
    """Write a file that shows, by itself, that a row stands in the log (C2SP tlog-proof)."""
    with reporting(debug):
        publisher = _reader(config, ledger_url, objects_url)
        _write(publisher.prove(_position(publisher, entry), cosigned), out)


@log.command("check")
def log_check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `verilora log prove` wrote.")],
    policy: PolicyFile, as_json: Json = False, debug: Debug = False,
) -> None:
    """Check such a file against a policy; needs no ledger. Exit 0 if the row stands in the log, 1 if not."""
    from storage.log import parse_log_proof, verify_log_proof
    from verifier.log import parse_leaf

    with reporting(debug):
        proof = parse_log_proof(_read(file))
        checkpoint = verify_log_proof(proof, _policy(policy))
        table, row = parse_leaf(proof.leaf)
        if as_json:
            emit_json({"origin": checkpoint.origin, "size": checkpoint.size, "position": proof.position, "table": table, "row": row})
            return
        _print(f"entry {proof.position} of the {checkpoint.size} in {checkpoint.origin} is this row of {table}:")
        for column, value in row.items():
            _print(f"  {column}: {value}")


@log.command("cosign")
def log_cosign(
    policy: PolicyFile,
    key: Annotated[Path, typer.Option("--key", help="The cosigner's key file, made on first use (mode 600).")],
    state: Annotated[Path, typer.Option("--state", help="What the cosigner has seen; keep it, without it the key cannot be used.")],
    name: Annotated[str, typer.Option("--name", help="The cosigner's name, on first use: auditor.example/cosigner.")] = "",
    checkpoint: Annotated[Path | None, typer.Option("--checkpoint", help="The checkpoint (default: the published one).")] = None,
    out: Out = None, config: Config = None, objects_url: ObjectsUrl = None, as_json: Json = False, debug: Debug = False,
) -> None:
    """Cosign the log's checkpoint if it continues everything this cosigner signed before; exit 1 if it does not."""
    from storage.cosigner import Cosigner
    from storage.log import NEWEST
    from storage.object_store import open_object_store
    from storage.tree import read_tree

    with reporting(debug):
        objects = open_object_store(objects_url or places(config, None, None)[1], read_only=True)
        note, believed = _read(checkpoint) if checkpoint else objects.read(NEWEST), _policy(policy)
        cosigner = Cosigner(key, state, name)

        def consistency(first: int, second: int) -> list[bytes]:
            return read_tree(objects, second).consistency(first, second) if first else []

        cosigned = cosigner.cosign(note, believed, consistency, int(time.time()))
        if as_json:
            emit_json({"key": str(cosigner.key.public), "note": cosigned.decode()})
            return
        _write(cosigned, out)
        if out:
            _print(f"the provider publishes it: verilora log add-cosignature {out} --key {cosigner.key.public}")


@log.command("add-cosignature")
def log_add_cosignature(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A checkpoint that `verilora log cosign` wrote.")],
    key: Annotated[str, typer.Option("--key", help="The cosigner's public key, NAME+ID+KEY.")],
    config: Config = None, as_json: Json = False, debug: Debug = False,
) -> None:
    """Publish a cosigner's signature on one of this log's checkpoints."""
    from verifier.note import COSIGNER_KEY, parse_key

    with reporting(debug):
        checkpoint = _publisher(config).add_cosignature(_read(file), parse_key(key, COSIGNER_KEY))
        if as_json:
            emit_json({"origin": checkpoint.origin, "size": checkpoint.size})
        else:
            _print(f"published the cosigned checkpoint of {checkpoint.size} entries")


@log.command("rotate-key")
def log_rotate_key(config: Config = None, as_json: Json = False, debug: Debug = False) -> None:
    """Exchange the log's signing key; stop every run and worker first. Hand the new policy to all auditors."""
    with reporting(debug):
        keys = _publisher(config).rotate_key()
        if as_json:
            emit_json({"origin": keys.current.name, "key": str(keys.current.public), "policy": keys.policy_text()})
        else:
            print(keys.policy_text(), end="")


def _reader(config: Path | None, ledger_url: str | None, objects_url: str | None) -> "LogPublisher":
    from storage.ledger import open_ledger
    from storage.log import LogPublisher
    from storage.object_store import open_object_store

    ledger, objects = places(config, ledger_url, objects_url)
    if not objects:
        raise complain("--ledger needs --objects: where tiles and checkpoint are, file:PATH", USAGE)
    return LogPublisher(open_ledger(ledger, read_only=True), open_object_store(objects, read_only=True))


def _publisher(config: Path | None) -> "LogPublisher":
    from flows.config import load_config
    from storage.ledger import open_ledger
    from storage.log import LogPublisher
    from storage.object_store import open_object_store
    from storage.private import open_private_store

    loaded = load_config(config or Path("run.yaml"))
    private = open_private_store(loaded.private_url)
    return LogPublisher(open_ledger(loaded.ledger_url), open_object_store(loaded.objects_url), private)


def _position(publisher: "LogPublisher", entry: str) -> int:
    if entry.isascii() and entry.isdigit():
        if len(entry) > 18 or int(entry) >= publisher.ledger.log_size():
            raise complain(f"the log has no entry {entry[:20]}: it has {publisher.ledger.log_size()}, numbered from 0", USAGE)
        return int(entry)
    row = publisher.ledger.proof(entry) or publisher.ledger.statement(entry)
    position = publisher.ledger.log_position(row) if row else None
    if position is None:
        raise complain(f"{entry!r} is neither the number of a log entry nor a statement id of this ledger", USAGE)
    return position


def _policy(path: Path) -> "Policy":
    from verifier.note import parse_policy

    return parse_policy(_read(path))


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE)
    except OSError as error:
        raise complain(f"{path} cannot be read: {error.strerror}", USAGE) from None


def _write(data: bytes, out: Path | None) -> None:
    if out is None:
        print(data.decode(), end="")
        return
    try:
        with out.open("xb") as file:
            file.write(data)
    except FileExistsError:
        raise complain(f"{out} exists and is left as it is: name a new file", USAGE) from None
    except OSError as error:
        raise complain(f"{out} cannot be written: {error.strerror}", USAGE) from None
    _print(f"wrote {out}")


def _print(text: str) -> None:
    console.print(visible(text), markup=False, highlight=False, soft_wrap=True)
