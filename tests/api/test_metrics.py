"""Metrics of the service: bounded labels, the ledger's figures, an answer also when the ledger gives none."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from api.app import create_app, open_services
from storage.errors import LedgerUnavailable
from storage.ledger import open_ledger
from storage.models import EventRow, RunRow
from storage.query import STATES
from tests.api.pretend import Pretended, make
from tests.storage.rows import digest
from tests.support import postgres
from tests.support.ledger_run import Places, append_run

RUN = "8c1f0e77a2d4b690"


def scrape(client: TestClient) -> dict[str, float]:
    answer = client.get("/metrics")
    assert answer.status_code == 200 and answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"].startswith("text/plain")
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in answer.text.splitlines() if not line.startswith("#")}


def test_requests_are_counted_by_route_template(client: TestClient) -> None:
    for path in (f"/api/v1/runs/{RUN}", "/api/v1/runs/unknown", "/api/v1/runs?limit=x", "/nothing/here", "/nothing/else", f"/runs/{RUN}"):
        client.get(path)
    client.head(f"/api/v1/runs/{RUN}")
    seen = scrape(client)
    assert seen['verilora_api_requests_total{route="/api/v1/runs/{run_id}",status="2xx"}'] == 2
    assert seen['verilora_api_requests_total{route="/api/v1/runs/{run_id}",status="4xx"}'] == 1
    assert seen['verilora_api_requests_total{route="/api/v1/runs",status="4xx"}'] == 1
    assert seen['verilora_api_requests_total{route="none",status="4xx"}'] == 2
    assert seen['verilora_api_request_seconds_count{route="/api/v1/runs/{run_id}"}'] == 3
    assert seen['verilora_api_request_seconds_bucket{le="+Inf",route="/runs/{run_id}"}'] == 1
    assert not any(word in name for name in seen for word in (RUN, "unknown", "nothing"))


def test_another_thousand_addresses_make_no_other_series(client: TestClient) -> None:
    scrape(client), client.get("/api/v1/runs/x"), client.get("/nothing/0")
    before = set(scrape(client))
    for n in range(100):
        client.get(f"/api/v1/runs/{n}"), client.get(f"/nothing/{n}")
    assert set(scrape(client)) == before


def test_the_ledgers_figures(tmp_path: Path) -> None:
    places = Places(f"sqlite:///{tmp_path}/ledger.db", f"file:{tmp_path}/objects", f"file:{tmp_path}/private")
    append_run(places, 7), append_run(places, 8), append_run(places, 9, finished=False)
    book = open_ledger(places.ledger)
    signed = book.log_size()
    book.append(RunRow("a", digest("{}"), "{}"))
    book.append(RunRow("b", digest("{}"), "{}"))
    book.append(EventRow("b", "overflow", 0, "{}"))
    seen = scrape(TestClient(create_app(open_services(places.ledger, places.objects))))
    states = {state: seen[f'verilora_ledger_runs{{state="{state}"}}'] for state in STATES}
    assert states == {"training": 1, "proving": 1, "finished": 2, "overflow": 1}
    assert (seen["verilora_ledger_log_entries"], seen["verilora_ledger_checkpoint_entries"]) == (signed + 3, signed)
    assert 0 <= seen["verilora_ledger_checkpoint_age_seconds"] < 300
    assert (seen["verilora_ledger_up"], seen["verilora_ledger_rejected_runs"]) == (1, 0)


def test_rejections_are_counted(pretended: Pretended, client: TestClient) -> None:
    rejected = {summary["run"] for summary in client.get("/api/v1/runs").json()["items"]
                if any(not verdict["accepted"] for verdict in client.get(f"/api/v1/runs/{summary['run']}/verdicts").json()["items"]
                       if "accepted" in verdict)}
    assert scrape(client)["verilora_ledger_rejected_runs"] == len(rejected)


def test_the_ledger_is_asked_rarely_and_may_be_silent(pretended: Pretended, monkeypatch: pytest.MonkeyPatch) -> None:
    services, asked = open_services(pretended.ledger_url, pretended.objects_url), list[int]()
    overview = services.rows.overview

    def counted() -> object:
        asked.append(1)
        return overview()

    monkeypatch.setattr(services.rows, "overview", counted)
    client = TestClient(create_app(services))
    for _ in range(5):
        scrape(client)
    assert len(asked) == 1

    def silent() -> None:
        raise LedgerUnavailable("no")

    monkeypatch.setattr(services.rows, "overview", silent)
    seen = scrape(TestClient(create_app(services)))
    assert seen["verilora_ledger_up"] == 0 and "verilora_ledger_log_entries" not in seen


def test_it_is_no_part_of_the_description(client: TestClient) -> None:
    assert "/metrics" not in client.get("/openapi.json").json()["paths"]
    assert client.post("/metrics").status_code == 405


def test_the_readers_role_is_enough(tmp_path: Path) -> None:
    server = postgres.server()
    name = server.ledger()
    made = make(tmp_path, server.url(name))
    seen = scrape(TestClient(create_app(open_services(server.url(name, "verilora_reader"), made.objects_url))))
    assert seen["verilora_ledger_up"] == 1 and seen["verilora_ledger_checkpoint_age_seconds"] < 300
    assert sum(seen[f'verilora_ledger_runs{{state="{state}"}}'] for state in STATES) > 0
