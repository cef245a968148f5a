"""/metrics for Prometheus: requests by route, and what the ledger says about itself. No value names a run, a client or an address.

    verilora_api_requests_total{route, status}       route templates as in the API's description, "none" for addresses that there are
    verilora_api_request_seconds{route}              not; status by its first digit. Seconds are until the last byte
    verilora_ledger_up                               1 if the ledger answered; the following are absent if it did not
    verilora_ledger_runs{state}                      training, proving, finished (its event is there), overflow
    verilora_ledger_log_entries                      length of the log
    verilora_ledger_checkpoint_entries               entries under the newest signed checkpoint
    verilora_ledger_checkpoint_age_seconds           since the last of these was appended
    verilora_ledger_rejected_runs                    runs with a verdict, by anybody, that rejects them

The ledger is asked at most every FRESH_SECONDS, with the reader's role. Called by api/app.py.
"""

import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime

from fastapi import APIRouter
from fastapi.responses import Response
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from api.http import App, Message
from storage.browse import Browse, Overview
from storage.errors import StorageError

FRESH_SECONDS = 10.0
SECONDS = (0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class Ledger:
    """The ledger's figures, as a Prometheus collector."""

    def __init__(self, rows: Browse) -> None:
        self._rows = rows
        self._lock = threading.Lock()
        self._asked, self._found = float("-inf"), None

    def collect(self) -> Iterator[Metric]:
        """Metric families; figures may be FRESH_SECONDS old."""
        found = self._overview()
        yield GaugeMetricFamily("verilora_ledger_up", "whether the ledger answers", value=found is not None)
        if found is None:
            return
        runs = GaugeMetricFamily("verilora_ledger_runs", "runs by state", labels=["state"])
        for state, number in found.states.items():
            runs.add_metric([state], number)
        yield runs
        yield GaugeMetricFamily("verilora_ledger_log_entries", "entries of the log", value=found.entries)
        yield GaugeMetricFamily("verilora_ledger_checkpoint_entries", "entries under the newest checkpoint", value=found.signed)
        yield GaugeMetricFamily("verilora_ledger_rejected_runs", "runs that a verdict rejects", value=found.rejected)
        if found.signed_at is not None:
            age = (datetime.now(UTC) - found.signed_at).total_seconds()
            yield GaugeMetricFamily("verilora_ledger_checkpoint_age_seconds", "age of the newest checkpoint", value=max(age, 0.0))

    def _overview(self) -> Overview | None:
        with self._lock:  # however many ask, the ledger is asked once
            if time.monotonic() - self._asked > FRESH_SECONDS:
                try:
                    self._found = self._rows.overview()
                except StorageError:
                    self._found = None
                self._asked = time.monotonic()
            return self._found


class Measured:
    """The ASGI layer that counts answers of the application inside."""

    def __init__(self, app: App, registry: CollectorRegistry) -> None:
        self._app = app
        self._requests = Counter("verilora_api_requests", "answers by route and status", ["route", "status"], registry=registry)
        self._seconds = Histogram("verilora_api_request_seconds", "time to the last byte", ["route"], buckets=SECONDS, registry=registry)

    async def __call__(self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), 500

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, counted)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self._requests.labels(route, f"{status // 100}xx").inc()
            self._seconds.labels(route).observe(time.monotonic() - started)


def metrics(rows: Browse, registry: CollectorRegistry) -> APIRouter:
    """The address /metrics over a registry that Measured counts in; it is not part of the API's description."""
    registry.register(Ledger(rows))  # type: ignore[arg-type]
    router = APIRouter()

    @router.get("/metrics", include_in_schema=False)
    def show() -> Response:
        return Response(generate_latest(registry), headers={"cache-control": "no-store"}, media_type=CONTENT_TYPE_LATEST)

    return router
