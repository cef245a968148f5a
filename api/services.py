"""What the endpoints read from, and how a request's parameters are read: identifiers, days, cursors, page sizes.

Everything is opened for reading alone. Each parameter has a bounded form, and one that an address does not know is refused, so
that a misspelt filter never answers with everything. Called by api/app.py and the endpoints.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import Depends, HTTPException, Path, Query, Request

from api.http import NotHere
from api.listing import MAX_LIMIT
from storage.browse import Browse
from storage.ledger import Ledger
from storage.log import LogPublisher
from storage.models import RunRow
from storage.object_store import ObjectStore

_TEXT = r"^[^\x00-\x1f\x7f]{1,200}$"
_DATE = r"^[12][0-9]{3}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$"

RunId = Annotated[str, Path(pattern=r"^[^\x00-\x1f\x7f/]{1,200}$", description="A run's id.")]
Digest = Annotated[str, Path(pattern="^[0-9a-f]{64}$", description="SHA-256 in hexadecimal digits.")]
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="The most items of this page.")]
After = Annotated[str | None, Query(pattern=r"^[A-Za-z0-9_-]{1,800}$", description="`next` of the page before.")]
Position = Annotated[int, Path(ge=0, lt=1 << 53)]
Size = Annotated[int, Query(ge=0, lt=1 << 53)]
Text = Annotated[str | None, Query(pattern=_TEXT)]
State = Annotated[Literal["training", "proving", "finished", "overflow"] | None, Query()]
Day = Annotated[str | None, Query(pattern=_DATE, json_schema_extra={"format": "date"}, description="A day in UTC, YYYY-MM-DD; included.")]


@dataclass(frozen=True)
class Services:
    """Ledger, object store, and the log as a reader without its key."""

    ledger: Ledger
    rows: Browse
    objects: ObjectStore
    log: LogPublisher

    def run(self, run_id: str) -> RunRow:
        """A run's row; NotHere if there is none."""
        found = self.rows.run(run_id)
        if found is None:
            raise NotHere(f"there is no run {run_id!r} in this ledger")
        return found


def services(request: Request) -> Services:
    """The services of this application."""
    found: Services = request.app.state.services
    return found


Open = Annotated[Services, Depends(services)]


def known_parameters(request: Request) -> None:
    """Refuse a parameter that this address does not take, or that is given twice."""
    route = request.scope.get("route")
    known = sorted(field.alias for field in getattr(getattr(route, "dependant", None), "query_params", []))
    given = [name for name, _ in request.query_params.multi_items()]
    for name in given:
        if name not in known:
            raise HTTPException(422, f"there is no parameter {name[:80]!r} here" + (f": {', '.join(known)}" if known else ""))
        if given.count(name) > 1:
            raise HTTPException(422, f"parameter {name!r} is given more than once")
