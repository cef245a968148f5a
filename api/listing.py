"""Pages of lists: cursors as opaque words, days as filters, and the listing of runs that API and command line share.

A cursor is the base64url of a JSON list, the key of the last item seen; one that does not fit its list is a BadQuery. Called by
api/ and cli/ledger.py; imports no web framework.
"""

import base64
import binascii
import json
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

from storage.errors import BadQuery
from storage.ledger import Ledger
from storage.query import RunSummary, parse_cursor

DEFAULT_LIMIT, MAX_LIMIT = 50, 500


def cursor(key: Sequence[Any]) -> str:
    """A place in a list as an opaque word."""
    return base64.urlsafe_b64encode(json.dumps(list(key), separators=(",", ":")).encode()).decode().rstrip("=")


def place(after: str | None, *kinds: type) -> tuple[Any, ...] | None:
    """The key in a cursor; BadQuery unless it has values of these kinds."""
    if after is None:
        return None
    try:
        key = json.loads(base64.urlsafe_b64decode(after + "=" * (-len(after) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        key = None
    if not isinstance(key, list) or len(key) != len(kinds) or not all(map(_fits, key, kinds)):
        raise BadQuery("after: this is no cursor of this list; take `next` of the page before")
    return tuple(key)


def _fits(item: object, kind: type) -> bool:
    """Whether a database takes `item` for a value of this kind."""
    if type(item) is not kind:
        return False
    return abs(item) < 1 << 31 if isinstance(item, int) else "\x00" not in str(item)


def find_runs(
    ledger: Ledger, *, model: str | None = None, dataset: str | None = None, since: str | None = None, until: str | None = None,
    state: str | None = None, verifier: str | None = None, limit: int = DEFAULT_LIMIT, after: str | None = None,
) -> tuple[list[RunSummary], str | None]:
    """One page of runs, newest first, and the cursor of the next; `since` and `until` are days, both included."""
    key = place(after, str)
    if key is not None:
        try:
            created, _ = parse_cursor(key[0])
        except BadQuery:
            created = datetime.min
        if not 1970 <= created.year <= 9000:
            raise BadQuery("after: this is no cursor of this list; take `next` of the page before")
    runs = ledger.query_runs(
        model=model, dataset=dataset, since=day(since), until=day(until, 1), state=state, verifier=verifier,
        limit=limit + 1, after=key[0] if key else None,
    )
    more = len(runs) > limit
    return runs[:limit], cursor([runs[limit - 1].cursor]) if more else None


def day(text: str | None, later: int = 0) -> datetime | None:
    """Midnight in UTC of a day, or so many days later."""
    if text is None:
        return None
    try:
        return datetime.combine(date.fromisoformat(text), datetime.min.time(), UTC) + timedelta(days=later)
    except ValueError:
        raise BadQuery(f"{text[:40]!r} is no day: use YYYY-MM-DD") from None
