"""Server-rendered pages: runs, one run, one window, one statement, log, how to verify. No scripts, no foreign resource.

Everything that a row says is escaped, and characters that could rearrange a line (controls, bidirectional overrides) are
replaced. A page shows claims with whoever makes them, and the command that checks them. Called by api/app.py.
"""

import re
import shlex
import unicodedata
from datetime import UTC, datetime
from importlib.resources import files
from typing import Annotated, Any

import jinja2
from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import HTMLResponse, Response
from markupsafe import Markup

from api import views
from api.claims import headline, json_object, losses, named_commitments, part, parts, plain, public_facts, task_name, window_steps, writes
from api.http import NotHere, status_of
from api.listing import MAX_LIMIT, cursor, find_runs, place
from api.log import entry_document, log_document
from api.runs import MAX_VERDICTS, run_item, sha256, signer, statement_document, verdict_item, verification_item
from api.services import After, Digest, Open, Position, RunId, known_parameters
from storage.query import STATES

pages = APIRouter(dependencies=[Depends(known_parameters)], include_in_schema=False)
STYLE = files("api").joinpath("static", "style.css").read_bytes()
PAGE = 100  # lines of a list
_HOST = re.compile(r"https?://[A-Za-z0-9.\-]+(:[0-9]{1,5})?/|https?://\[[0-9a-f:]+\](:[0-9]{1,5})?/")

Filter = Annotated[str, Query(pattern=r"^[^\x00-\x1f\x7f]{0,200}$")]
From = Annotated[int, Query(alias="from", ge=0, lt=1 << 24)]
Window = Annotated[int, Path(ge=-1, lt=1 << 24)]


def printable(value: object) -> object:
    """Text without characters that change how the text around them is read."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return "".join(c if c == "\n" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") else "\ufffd" for c in value)


def moment(value: datetime | None) -> Markup:
    """A time in UTC, to the second."""
    if value is None:
        return Markup("–")
    value = value.astimezone(UTC)
    return Markup('<time datetime="{}">{}</time>').format(value.strftime("%Y-%m-%dT%H:%M:%SZ"), value.strftime("%Y-%m-%d %H:%M:%S"))


def short(value: str) -> Markup:
    """A digest's beginning; the whole of it is its title."""
    if len(value) <= 16:
        return Markup("<code>{}</code>").format(printable(value))
    return Markup('<code title="{}">{}…</code>').format(printable(value), printable(value[:12]))


def grouped(value: float | None) -> str:
    """A number with groups of three digits."""
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def clipped(value: str, limit: int = 400) -> str:
    """A text that may be long."""
    return value if len(value) <= limit else value[:limit] + " …"


def environment() -> jinja2.Environment:
    """Templates with autoescaping; a name that a page was not given is an error."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("api"), autoescape=True, undefined=jinja2.StrictUndefined, finalize=printable,
        trim_blocks=True, lstrip_blocks=True,
    )
    made.filters |= {"moment": moment, "short": short, "grouped": grouped, "clipped": clipped, "quoted": shlex.quote}
    made.globals |= {"task_name": task_name}
    return made


TEMPLATES = environment()


def render(request: Request, name: str, code: int = 200, **values: Any) -> HTMLResponse:
    """One page. The address that commands show is the one that was asked for, if it looks like an address."""
    base = str(request.base_url)
    values |= {"base": base if _HOST.fullmatch(base) else "http://HOST/", "path": request.url.path}
    return HTMLResponse(TEMPLATES.get_template(name).render(values), code)


def error_page(request: Request, error: Exception) -> Response:
    """An error for people."""
    status, detail = status_of(error)
    return render(request, "error.html", status, status=status, detail=detail)


@pages.get("/")
def list_runs(
    request: Request, found: Open, model: Filter = "", dataset: Filter = "", since: Filter = "", until: Filter = "", state: Filter = "",
    verifier: Filter = "", after: After = None,
) -> HTMLResponse:
    """Runs, with a form of filters."""
    filters = {"model": model, "dataset": dataset, "since": since, "until": until, "state": state, "verifier": verifier}
    given = {name: value.strip() for name, value in filters.items() if value.strip()}
    runs, following = find_runs(found.ledger, **given, limit=PAGE, after=after)
    return render(request, "runs.html", runs=runs, next=following, filters=filters, given=given, states=STATES, paged=after is not None)


@pages.get("/runs/{run_id}")
def show_run(request: Request, found: Open, run_id: RunId, first: From = 0) -> HTMLResponse:
    """One run."""
    run = found.run(run_id)
    manifest = json_object(run.manifest)
    heads = found.rows.contents(run_id, kind="head")
    points = losses(manifest, heads)
    kinds, sources = views.proof_kinds(found.rows.proof_groups(run_id))
    dataset = part(manifest, "commitments", "dataset")
    sharing = found.rows.runs_on(dataset, 12) if isinstance(dataset, str) and dataset else []
    return render(
        request, "run.html", run=run_item(found, run_id), digest=sha256(run.manifest), headline=headline(manifest),
        facts=public_facts(manifest), proof_bytes=sum(kind.total_bytes for kind in kinds),
        verifications=[verification_item(row, run) for row in found.rows.verifications(run_id)], events=found.rows.events(run_id),
        grid=views.grid(found, run_id, manifest, first), grid_parts=parts(manifest), start=views.before_windows(found, run_id),
        window_steps=window_steps(manifest),
        curve=views.curve(points), points=points[:500], steps=len(points), publishes=manifest.get("publish_loss") is True,
        unproved=len(heads) - sum(kind.proofs for kind in kinds if kind.kind == "head"),
        kinds=kinds, sources=sources, budgets=views.budgets(found, run_id),
        sharing=[other for other in sharing if other != run_id], owner=plain(part(manifest, "dataset_owner") or ""),
    )


@pages.get("/runs/{run_id}/statements")
def list_statements(request: Request, found: Open, run_id: RunId, after: After = None) -> HTMLResponse:
    """All statements of a run, page by page."""
    found.run(run_id)
    key = place(after, str, int, int, int)
    lines = found.rows.tasks(run_id, after=None if key is None else (key[0], key[1], key[2], key[3]), limit=MAX_LIMIT + 1)
    following = cursor(lines[MAX_LIMIT - 1].place) if len(lines) > MAX_LIMIT else None
    lines = lines[:MAX_LIMIT]
    verdicts = found.rows.verdict_counts(run_id, [line.statement_id for line in lines])
    return render(request, "statements.html", run_id=run_id, lines=lines, verdicts=verdicts, next=following, paged=after is not None)


@pages.get("/runs/{run_id}/windows/{window}")
def show_window(request: Request, found: Open, run_id: RunId, window: Window) -> HTMLResponse:
    """Tasks of one window and the commitments that chain them; window −1 is what was committed at the start."""
    run = found.run(run_id)
    lines = sorted(found.rows.tasks(run_id, windows=(window, window)), key=lambda line: (views.rank(line.kind), line.layer, line.part))
    last = found.rows.last_window(run_id)
    if window > last:
        raise NotHere(f"run {run_id!r} has no window {window}")
    return render(
        request, "window.html", run_id=run_id, window=window, last=last, lines=lines, links=views.chain(found, run_id, window),
        verdicts=found.rows.verdict_counts(run_id, [line.statement_id for line in lines]),
        window_steps=window_steps(json_object(run.manifest)),
    )


@pages.get("/statements/{statement_id}")
def show_statement(request: Request, found: Open, statement_id: Digest) -> HTMLResponse:
    """One statement."""
    document = statement_document(found, statement_id)
    content = json_object(document.content)
    uses = [(role, name, identity, writes(document.kind, role)) for role, name, identity in named_commitments(content)]
    run = found.run(document.run)
    row = found.ledger.statement(statement_id)
    passes = {item.verification: item for item in found.rows.verifications(document.run)}
    points = losses(json_object(run.manifest), [row]) if row and row.kind == "head" else []
    return render(
        request, "statement.html", statement=document, relation=plain(content.get("relation", "–")), uses=uses, points=points,
        verdicts=[
            (verdict_item(item), signer(passes[item.verification], run, item) if item.verification in passes else None)
            for item in found.rows.verdicts(document.run, subject=statement_id, limit=MAX_VERDICTS)
        ],
    )


@pages.get("/log")
def show_log(request: Request, found: Open, below: Annotated[int | None, Query(ge=0, lt=1 << 53)] = None) -> HTMLResponse:
    """The log's newest checkpoint, earlier ones, and the newest entries."""
    document = log_document(found)
    heads = found.rows.checkpoints(below=below, limit=21)
    entries = found.rows.entries(max(document.size - 20, 0), document.size)
    following = heads[19].size if len(heads) > 20 else None
    return render(request, "log.html", log=document, heads=heads[:20], next=following, entries=entries[::-1])


@pages.get("/log/entries/{position}")
def show_entry(request: Request, found: Open, position: Position) -> HTMLResponse:
    """One entry with its inclusion proof."""
    return render(request, "entry.html", entry=entry_document(found, position, None))


@pages.get("/about")
def about(request: Request) -> HTMLResponse:
    """What this is and how to check it."""
    return render(request, "about.html")


@pages.get("/style.css")
def style() -> Response:
    """The one style sheet."""
    return Response(STYLE, media_type="text/css")
