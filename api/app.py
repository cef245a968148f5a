"""The application: routes, error handlers and the layer around them. Called by cli/serve.py and by tests.

Endpoints are plain functions that FastAPI runs in threads; the number of threads bounds how many queries run at once, and
storage/browse.py how long each may take. There is no documentation page, which would need a script; /openapi.json describes all.
"""

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException

from api.bundle import bundles
from api.http import NotHere, Outer, Unavailable, problem
from api.log import log
from api.metrics import Measured, metrics
from api.pages import error_page, pages
from api.runs import runs
from api.schemas import Problem
from api.services import Services
from storage.browse import Browse
from storage.engine import open_engine
from storage.errors import StorageError
from storage.ledger import Ledger
from storage.log import LogPublisher
from storage.object_store import open_object_store

PROBLEM = {"content": {"application/problem+json": {"schema": Problem.model_json_schema()}}}
ERRORS = {
    404: "Nothing of this name in this ledger.", 405: "Anything but GET and HEAD.", 414: "A query that is too long.",
    422: "A parameter without a meaning.", 502: "The object store returned something else than was asked for.",
    503: "Not available at the moment.",
}


def open_services(ledger_url: str, objects_url: str) -> Services:
    """Ledger and object store for reading."""
    engine = open_engine(ledger_url, read_only=True)
    ledger, objects = Ledger(engine), open_object_store(objects_url, read_only=True)
    return Services(ledger, Browse(engine), objects, LogPublisher(ledger, objects))


def create_app(found: Services) -> Outer:
    """The read-only service over an open ledger."""
    responses: dict[int | str, dict[str, object]] = {status: PROBLEM | {"description": text} for status, text in ERRORS.items()}
    app = FastAPI(
        title="VeriLoRA audit ledger", version="1", docs_url=None, redoc_url=None, responses=responses,
        description="What an audit ledger says, read-only. Rows are claims of the ledger's owner, verdicts claims of their signers.",
    )
    app.state.services = found
    registry = CollectorRegistry()
    for router in (runs, bundles, log, pages, metrics(found.rows, registry)):
        app.include_router(router)

    @app.get("/healthz", summary="Whether ledger and object store answer", tags=["service"], include_in_schema=False)
    def healthz() -> dict[str, str]:
        """Reads one row and one file name; an error is a 503."""
        found.ledger.log_size()
        found.objects.has("0" * 64)
        return {"status": "ok"}

    def answer(request: Request, error: Exception) -> Response:
        path = request.url.path
        machine = path.startswith("/api/") or path in ("/healthz", "/metrics", "/openapi.json", "/style.css")
        return problem(request, error) if machine else error_page(request, error)

    for kind in (HTTPException, RequestValidationError, StorageError, NotHere, Unavailable, Exception):
        app.add_exception_handler(kind, answer)
    return Outer(Measured(app, registry))
