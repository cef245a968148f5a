"""HTTP around every answer: GET and HEAD alone, strong ETags, security headers, errors as RFC 9457 problems or as a page.

One ASGI layer does what no endpoint may forget. An answer without an ETag of its own gets the SHA-256 of its body, so equal
bytes are never sent twice to a client that has them (If-None-Match, 304). Called by api/app.py.
"""

import hashlib
import json
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from storage.browse import QueryTimeout
from storage.errors import BadQuery, IntegrityError, MissingObject, StorageError, UnknownRun

Message = MutableMapping[str, Any]
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]

LOGGER = logging.getLogger(__name__)
MAX_QUERY = 4096  # bytes of a query string
POLICY = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
]


class Unavailable(Exception):
    """Something this service could answer at another time, or with another configuration."""


class NotHere(Exception):
    """No such thing in this ledger."""


class Outer:
    """The ASGI layer around the application."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(scope, send)
        if scope["method"] not in ("GET", "HEAD"):
            detail = f"{scope['method']} is not possible: this service only reads"
            await answer.problem(405, detail, [(b"allow", b"GET, HEAD")])
        elif len(scope.get("query_string", b"")) > MAX_QUERY:
            await answer.problem(414, f"the query is longer than {MAX_QUERY} bytes")
        else:
            await self._app({**scope, "method": "GET"}, receive, answer.send)


class _Answer:
    """One answer on its way out: kept until complete unless it brings its own ETag."""

    def __init__(self, scope: Message, send: Callable[[Message], Awaitable[None]]) -> None:
        self._send, self._bare = send, scope["method"] == "HEAD"
        known = b",".join(value for name, value in scope["headers"] if name == b"if-none-match")
        self._known = {tag.strip().removeprefix(b"W/") for tag in known.split(b",") if tag.strip()}
        self._start: Message | None = None
        self._body = b""
        self._silent = False  # the head is sent and no body follows

    async def problem(self, status: int, detail: str, headers: list[tuple[bytes, bytes]] | None = None) -> None:
        body = problem_body(status, detail)
        head = [(b"content-type", b"application/problem+json"), (b"content-length", str(len(body)).encode()), *(headers or [])]
        await self.send({"type": "http.response.start", "status": status, "headers": head})
        await self.send({"type": "http.response.body", "body": body})

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            if any(name.lower() == b"etag" for name, _ in message["headers"]):
                await self._begin(message)
                self._start = None
            return
        if self._start is None:  # a stream that has begun
            if not self._silent:
                await self._send(message)
            return
        self._body += message.get("body", b"")
        if message.get("more_body"):
            return
        start, self._start = self._start, None
        if start["status"] == HTTPStatus.OK:
            start["headers"] = [*start["headers"], (b"etag", f'"{hashlib.sha256(self._body).hexdigest()}"'.encode())]
        await self._begin(start)
        if not self._silent:
            await self._send({"type": "http.response.body", "body": self._body})

    async def _begin(self, start: Message) -> None:
        headers = [*start["headers"], *HEADERS]
        if not any(name.lower() == b"cache-control" for name, _ in headers):
            headers.append((b"cache-control", b"no-cache"))
        status = start["status"]
        etag = next((value for name, value in headers if name.lower() == b"etag"), b"")
        if status == HTTPStatus.OK and etag and self._known & {etag, b"*"}:
            status = HTTPStatus.NOT_MODIFIED
            headers = [(name, value) for name, value in headers if name.lower() not in (b"content-length", b"content-type")]
        await self._send({"type": "http.response.start", "status": int(status), "headers": headers})
        self._silent = self._bare or status == HTTPStatus.NOT_MODIFIED
        if self._silent:
            await self._send({"type": "http.response.body", "body": b""})


def problem_body(status: int, detail: str) -> bytes:
    """A problem document."""
    title = HTTPStatus(status).phrase
    return json.dumps({"type": "about:blank", "title": title, "status": status, "detail": detail}, ensure_ascii=False).encode()


def status_of(error: Exception) -> tuple[int, str]:
    """Status and detail of an error; what is not foreseen says nothing about the inside."""
    if isinstance(error, HTTPException):
        return error.status_code, str(error.detail)
    if isinstance(error, RequestValidationError):
        faults = [f"{'.'.join(str(item) for item in fault['loc'])}: {fault['msg']}" for fault in error.errors()]
        return 422, "; ".join(faults)[:1000]
    if isinstance(error, NotHere):
        return 404, str(error)
    if isinstance(error, MissingObject | UnknownRun):  # their own text names folders, or every run there is
        return 404, "there is no such run or object here"
    if isinstance(error, BadQuery):
        return 422, str(error)
    if isinstance(error, IntegrityError):
        return 502, "the object store returned bytes that do not hash to their name: they are not passed on"
    if isinstance(error, Unavailable | QueryTimeout):
        return 503, str(error)
    if isinstance(error, StorageError):
        return 503, "ledger or object store cannot be read at the moment; the service's log says why"
    return 500, "this request could not be answered; the service's log says why"


def problem(request: Request, error: Exception) -> Response:
    """An error for a program."""
    status, detail = status_of(error)
    if status >= 500:
        LOGGER.error("%s: %s", request.url.path, error, exc_info=error if status == 500 else None)
    headers = {"retry-after": "10"} if status == 503 else {}
    return Response(problem_body(status, detail), status, headers, media_type="application/problem+json")
