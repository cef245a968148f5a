"""A run's bundle for download: written to a temporary file, two at a time, and sent from there, a few at a time, so that clients who
read slowly do not fill the disk. Called by api/app.py."""

import hashlib
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Annotated, BinaryIO

from fastapi import APIRouter, Depends, Query
from fastapi.responses import Response, StreamingResponse

from api.http import NotHere, Unavailable
from api.runs import BYTES, CHUNK
from api.services import Open, RunId, Services, known_parameters
from storage.bundle import write_bundle
from storage.errors import BadQuery, IntegrityError, MissingObject
from verifier.note import split_note

bundles = APIRouter(prefix="/api/v1", dependencies=[Depends(known_parameters)], tags=["runs"])
Since = Annotated[int, Query(ge=0, lt=1 << 53, description="Prove that the log continues the one of this size, seen earlier.")]
Cosigned = Annotated[bool, Query(description="Under the newest checkpoint that cosigners signed too.")]
_AT_ONCE = threading.BoundedSemaphore(2)
MAX_FILES = 8  # that exist at once
_FILES = threading.BoundedSemaphore(MAX_FILES)


@bundles.get("/runs/{run_id}/bundle", summary="Everything public about a run in one file", response_class=Response, responses=BYTES)
def show_bundle(found: Open, run_id: RunId, since: Since = 0, cosigned: Cosigned = False) -> StreamingResponse:
    """What `verilora-verify` takes: rows with inclusion proofs, a checkpoint, every proof."""
    found.run(run_id)
    note = found.log.newest_note(cosigned)
    if not note:
        raise NotHere(f"the log has no {'cosigned' if cosigned else 'signed'} checkpoint yet, so there is nothing to prove the rows by")
    if since > (size := split_note(note)[0].size):
        raise BadQuery(f"since: the checkpoint has {size} entries, it cannot be shown to continue one of {since}")
    if not _AT_ONCE.acquire(blocking=False):
        raise Unavailable("two bundles are being written already: try again in a moment")
    try:
        file, gone = _file()
        _write(file, found, run_id, since, cosigned)
    finally:
        _AT_ONCE.release()
    digest, size = _hashed(file)
    headers = {
        "etag": f'"{digest}"', "content-length": str(size),
        "content-disposition": f'attachment; filename="{_name(run_id)}.bundle"',
    }
    return StreamingResponse(_chunks(file, gone), headers=headers, media_type="application/octet-stream")


def _file() -> tuple[BinaryIO, Callable[[], object]]:
    """A temporary file, and what to call when it is closed; it is called too if a client leaves before the file is sent."""
    if not _FILES.acquire(blocking=False):
        raise Unavailable(f"{MAX_FILES} bundles are being sent already: try again in a moment")
    file = tempfile.TemporaryFile()  # noqa: SIM115 - closed when it has been sent
    return file, weakref.finalize(file, _FILES.release)


def _write(file: BinaryIO, found: Services, run_id: str, since: int, cosigned: bool) -> None:
    try:
        write_bundle(file, found.log, run_id, since, cosigned)
    except (IntegrityError, MissingObject) as error:
        raise IntegrityError(str(error)) from error  # a proof that the ledger names is not what or where it must be


def _hashed(file: BinaryIO) -> tuple[str, int]:
    """SHA-256 and size."""
    digest = hashlib.sha256()
    file.seek(0)
    while chunk := file.read(CHUNK):
        digest.update(chunk)
    return digest.hexdigest(), file.tell()


def _chunks(file: BinaryIO, gone: Callable[[], object]) -> Iterator[bytes]:
    try:
        with file:
            file.seek(0)
            while chunk := file.read(CHUNK):
                yield chunk
    finally:
        gone()


def _name(run_id: str) -> str:
    """A file name out of a run id, which may hold anything."""
    return "".join(character if character.isascii() and (character.isalnum() or character in "-_.") else "_" for character in run_id)
