"""The transparency log under /api/v1/log: checkpoint and tiles as published (C2SP tlog-tiles), entries with inclusion proofs.

/api/v1/log is the log's prefix in C2SP's sense: …/checkpoint and …/tile/L/N are what its clients ask for. The proofs are built
from the leaf hashes that the ledger recorded, and are worth what the checkpoint's signatures are worth. Called by api/app.py.
"""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query
from fastapi.responses import Response

from api.http import NotHere
from api.listing import DEFAULT_LIMIT, cursor, place
from api.runs import BYTES
from api.schemas import CheckpointItem, ConsistencyDocument, EntryDocument, LogDocument, Page
from api.services import After, Limit, Open, Position, Services, Size, known_parameters
from storage.errors import BadQuery
from storage.models import leaf_hash

_TILE = re.compile(r"([0-9]|[1-5][0-9]|6[0-3])(/x[0-9]{3})*/[0-9]{3}(\.p/([1-9][0-9]{0,2}))?")
IMMUTABLE = {"cache-control": "public, max-age=31536000, immutable"}
TEXT: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}
TreeSize = Annotated[int | None, Query(ge=1, lt=1 << 53, description="Size of the tree; by default the newest checkpoint's.")]

log = APIRouter(prefix="/api/v1/log", dependencies=[Depends(known_parameters)], tags=["log"])


@log.get("", summary="The log")
def show_log(found: Open) -> LogDocument:
    """How many entries there are, and the newest checkpoint in the ledger."""
    return log_document(found)


@log.get("/checkpoint", summary="The newest signed checkpoint", response_class=Response, responses=TEXT)
def show_checkpoint(found: Open) -> Response:
    """The note as published, with cosignatures if there are any."""
    return Response(found.objects.read("log/checkpoint"), media_type="text/plain; charset=utf-8")


@log.get("/checkpoints", summary="Signed checkpoints, newest first")
def list_checkpoints(found: Open, limit: Limit = DEFAULT_LIMIT, after: After = None) -> Page[CheckpointItem]:
    """Every one that the ledger holds."""
    key = place(after, int)
    heads = found.rows.checkpoints(below=key[0] if key else None, limit=limit + 1)
    more = len(heads) > limit
    items = [CheckpointItem(size=head.size, note=head.note) for head in heads[:limit]]
    return Page(items=items, next=cursor([items[-1].size]) if more else None)


@log.get("/tile/{tile:path}", summary="A tile of the tree", response_class=Response, responses=BYTES)
def show_tile(found: Open, tile: Annotated[str, Path(description="L/N or L/N.p/W, as C2SP tlog-tiles names them.")]) -> Response:
    """Hashes of one tile as published."""
    if not _TILE.fullmatch(tile) or len(tile) > 80:
        raise NotHere("there is no tile of this name: tile/L/N or tile/L/N.p/W")
    return Response(found.objects.read(f"log/tile/{tile}"), headers=IMMUTABLE, media_type="application/octet-stream")


@log.get("/entries/{position}", summary="One entry with its inclusion proof")
def show_entry(found: Open, position: Position, size: TreeSize = None) -> EntryDocument:
    """The row as it is now; under a checkpoint its inclusion proof, before the first one that covers it none and size 0."""
    return entry_document(found, position, size)


@log.get("/consistency", summary="Consistency proof between two sizes")
def show_consistency(found: Open, first: Size, second: Size) -> ConsistencyDocument:
    """That the log of `second` entries continues the one of `first`."""
    if not first <= second <= found.ledger.log_size():
        raise BadQuery(f"first ≤ second ≤ {found.ledger.log_size()}, the number of entries")
    proof = found.log.consistency_proof(first, second) if 0 < first < second else []
    return ConsistencyDocument(first=first, second=second, consistency_proof=[node.hex() for node in proof])


def log_document(found: Services) -> LogDocument:
    """The log in short."""
    newest = next(iter(found.rows.checkpoints(limit=1)), None)
    return LogDocument(
        size=found.ledger.log_size(), checkpoint_size=newest.size if newest else None, checkpoint=newest.note if newest else None
    )


def entry_document(found: Services, position: int, size: int | None) -> EntryDocument:
    """One entry, by default under the newest checkpoint."""
    entry = next(iter(found.rows.entries(position, position + 1)), None)
    if entry is None:
        raise NotHere(f"the log has no entry {position}")
    if size is None:
        newest = next(iter(found.rows.checkpoints(limit=1)), None)
        size = newest.size if newest and newest.size > position else 0
    elif not position < size <= found.ledger.log_size():
        raise BadQuery(f"size: a tree that holds entry {position} has {position + 1} to {found.ledger.log_size()} entries")
    [leaf] = found.ledger.log_leaves(position, position + 1)
    proof = found.log.inclusion_proof(position, size) if size else []
    return EntryDocument(
        position=position, row_table=entry.row_table, row_key=entry.row_key, leaf=leaf.decode(errors="replace"), leaf_hash=entry.leaf_hash,
        changed=leaf_hash(leaf) != entry.leaf_hash, size=size, inclusion_proof=[node.hex() for node in proof],
    )
