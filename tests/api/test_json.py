"""JSON under /api/v1: contents, pages of lists, filters, ETags, methods, errors; and that a bundle from here verifies."""

import hashlib
import json
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from api.app import create_app, open_services
from api.listing import cursor
from tests.api.pretend import Pretended
from verifier.bundle import read_bundle
from verifier.log import leaf_hash, verify_consistency, verify_inclusion
from verifier.note import split_note

RUN, REJECTED, PROVING = "8c1f0e77a2d4b690", "27d0b1c95e3fa846", "f3a9c64b1180de25"


def runs(client: TestClient, query: str = "") -> list[str]:
    answer = client.get(f"/api/v1/runs{query}")
    assert answer.status_code == 200, answer.text
    return sorted(item["run"] for item in answer.json()["items"])


def test_runs_are_filtered(client: TestClient) -> None:
    assert runs(client) == sorted([PROVING, REJECTED, RUN])
    assert runs(client, "?state=proving") == [PROVING]
    assert runs(client, "?model=tiny-llama-long") == [REJECTED]
    assert runs(client, "?verifier=somebody") == [RUN]
    assert runs(client, "?since=2100-01-01") == runs(client, "?until=2001-01-01") == []
    assert runs(client, "?since=2001-01-01&until=2200-01-01") == sorted([PROVING, REJECTED, RUN])
    dataset = client.get(f"/api/v1/runs/{RUN}").json()["dataset"]
    assert runs(client, f"?dataset={dataset}") == [REJECTED, RUN]


@pytest.mark.parametrize("path", ["runs", f"runs/{RUN}/statements", f"runs/{RUN}/commitments", f"runs/{RUN}/verdicts", "log/checkpoints"])
def test_pages_of_a_list_put_together_are_the_list(client: TestClient, path: str) -> None:
    whole = client.get(f"/api/v1/{path}?limit=500").json()
    assert whole["next"] is None and len(whole["items"]) > 1
    found, after = [], ""
    while after is not None:
        page = client.get(f"/api/v1/{path}?limit={7 if len(whole['items']) > 7 else 1}{after}").json()
        found += page["items"]
        after = page["next"] and f"&after={page['next']}"
    assert found == whole["items"]


def test_a_run_says_what_its_rows_say(client: TestClient) -> None:
    run = client.get(f"/api/v1/runs/{REJECTED}").json()
    assert (run["state"], run["proofs"], run["counts"]["statements"]) == ("finished", 37, 37)
    assert [point["step"] for point in run["loss"]] == list(range(10)) and run["loss"][0]["loss"] == pytest.approx(4.7, abs=1e-3)
    [verdict] = run["verifications"]
    assert (verdict["accepted"], verdict["tasks_rejected"], verdict["verifier"]) == (False, 1, "Second Audit")
    assert len(verdict["signed_by"]) == 64
    text = client.get(f"/api/v1/runs/{REJECTED}/manifest")
    assert hashlib.sha256(text.content).hexdigest() == run["manifest_sha256"] and text.json() == run["manifest"]
    unsigned = [item for item in client.get(f"/api/v1/runs/{RUN}").json()["verifications"] if item["verifier"] == "somebody"]
    assert unsigned[0]["signed_by"] is None and unsigned[0]["accepted"]


def test_a_statement_and_its_proof(client: TestClient) -> None:
    line = client.get(f"/api/v1/runs/{RUN}/statements?kind=layer&limit=1").json()["items"][0]
    statement = client.get(f"/api/v1/statements/{line['statement']}").json()
    assert statement["task"] == "layer(0, 0)" and json.loads(statement["content"])["kind"] == "layer"
    assert statement["soundness"]["bits"] == 104 and statement["openings"] and statement["verdicts"][0]["accepted"]
    proof = client.get(f"/api/v1/objects/{line['proof']}")
    assert hashlib.sha256(proof.content).hexdigest() == line["proof"] and len(proof.content) == line["bytes"]
    assert client.get(f"/api/v1/objects/{line['proof']}", headers={"If-None-Match": f'"{line["proof"]}"'}).status_code == 304


def test_log_proofs_hold_under_the_signed_checkpoint(client: TestClient) -> None:
    log = client.get("/api/v1/log").json()
    note = client.get("/api/v1/log/checkpoint")
    assert note.text == log["checkpoint"]
    head = split_note(note.content)[0]
    for position in (0, 5, head.size - 1):
        entry = client.get(f"/api/v1/log/entries/{position}").json()
        path = [bytes.fromhex(node) for node in entry["inclusion_proof"]]
        verify_inclusion(leaf_hash(entry["leaf"].encode()), position, head.size, path, head.root)
        assert not entry["changed"] and entry["size"] == head.size
    older = split_note(client.get("/api/v1/log/checkpoints").json()["items"][1]["note"].encode())[0]
    path = client.get(f"/api/v1/log/consistency?first={older.size}&second={head.size}").json()["consistency_proof"]
    verify_consistency(older.size, older.root, head.size, head.root, [bytes.fromhex(node) for node in path])
    assert len(client.get("/api/v1/log/tile/0/000").content) == 256 * 32
    assert client.get("/api/v1/log/consistency?first=9&second=3").status_code == 422


def test_a_bundle_is_one_that_the_verifier_reads(client: TestClient, tmp_path: Path) -> None:
    answer = client.get(f"/api/v1/runs/{RUN}/bundle")
    assert answer.status_code == 200 and answer.headers["content-disposition"] == f'attachment; filename="{RUN}.bundle"'
    (tmp_path / "bundle").write_bytes(answer.content)
    assert read_bundle(str(tmp_path / "bundle")).run_id == RUN
    since = client.get("/api/v1/log/checkpoints").json()["items"][1]["size"]
    (tmp_path / "later").write_bytes(client.get(f"/api/v1/runs/{RUN}/bundle?since={since}").content)
    assert read_bundle(str(tmp_path / "later")).since == since
    assert client.get(f"/api/v1/runs/{RUN}/bundle?since=999999").status_code == 422
    assert client.get(f"/api/v1/runs/{RUN}/bundle?cosigned=true").status_code == 404
    again = client.get(f"/api/v1/runs/{RUN}/bundle", headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304 and not again.content


@pytest.mark.parametrize("path", ["/", f"/runs/{RUN}", "/api/v1/runs", f"/api/v1/runs/{RUN}", "/openapi.json", "/style.css"])
def test_etags_and_head(client: TestClient, path: str) -> None:
    answer = client.get(path)
    tag = answer.headers["etag"]
    assert tag == f'"{hashlib.sha256(answer.content).hexdigest()}"'
    for known in (tag, f'"x", W/{tag}', "*"):
        same = client.get(path, headers={"If-None-Match": known})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    assert client.get(path, headers={"If-None-Match": '"other"'}).status_code == 200
    bare = client.head(path)
    assert bare.content == b"" and bare.headers["etag"] == tag and bare.headers["content-length"] == str(len(answer.content))


@pytest.mark.parametrize("path", ["/", "/api/v1/runs", "/healthz", "/nothing", "/api/v1/objects/" + "0" * 64])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_nothing_but_reading(client: TestClient, path: str, method: str) -> None:
    answer = client.request(method, path)
    assert answer.status_code == 405 and answer.headers["allow"] == "GET, HEAD"
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", ["/", "/api/v1/runs", "/api/v1/objects/" + "0" * 64, "/nothing", "/style.css", "/api/v1/runs?limit=0"])
def test_every_answer_has_the_security_headers(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    assert "script" not in headers["content-security-policy"] and headers["content-security-policy"].startswith("default-src 'none'")
    assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
    assert "server" not in headers and "set-cookie" not in headers


BAD = {
    "runs?limit=0": 422, "runs?limit=501": 422, "runs?limit=x": 422, "runs?state=nothing": 422, "runs?since=2026-02-30": 422,
    "runs?since=yesterday": 422, "runs?stat=finished": 422, "runs?limit=1&limit=2": 422, "runs?after=!!": 422, "runs?after=AAAA": 422,
    f"runs?after={cursor(['0001-01-01T00:00:00+14:00~x'])}": 422, f"runs?after={cursor(['9999-12-31T23:59:59-14:00~x'])}": 422,
    f"runs/{RUN}/statements?after={cursor(['layer', 1 << 70, 0, 0])}": 422, f"runs/{RUN}/statements?after={cursor(['a', 1, 2])}": 422,
    f"runs/{RUN}/statements?after={cursor([chr(0), 1, 2, 3])}": 422, "runs?model=%00": 422, "runs?model=" + "x" * 300: 422,
    "runs?model=" + "x" * 5000: 414, "runs/none": 404, "runs/%00": 422, "runs/none/statements": 404, "runs/none/bundle": 404,
    "statements/abc": 422, "statements/" + "0" * 64: 404, "objects/" + "0" * 64: 404, "objects/" + "A" * 64: 422,
    "objects/..%2f..%2fledger.db": 404, "log/tile/../../ledger.db": 404, "log/tile/0/000/../x": 404, "log/tile/0/x001": 404,
    "log/tile/..%2f..%2f..%2fledger.db": 404, "log/entries/-1": 422, "log/entries/99999999999999999999": 422, "log/entries/9999999": 404,
    "log/entries/5?size=5": 422, "log/entries/5?size=999999": 422, "log/consistency?first=0&second=99999999": 422,
}


@pytest.mark.parametrize("path", BAD)
def test_hostile_and_mistaken_requests_get_a_problem(client: TestClient, path: str) -> None:
    answer = client.get(f"/api/v1/{path}")
    assert answer.status_code == BAD[path], answer.text
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["status"] == BAD[path] and problem["title"] and problem["detail"] and len(problem["detail"]) < 1200


def test_a_damaged_object_is_not_passed_on(client: TestClient, pretended: Pretended) -> None:
    digest = client.get(f"/api/v1/runs/{RUN}/statements?kind=head&limit=1").json()["items"][0]["proof"]
    path = next((pretended.folder / "objects").rglob(digest))
    good = path.read_bytes()
    path.chmod(0o644)
    try:
        path.write_bytes(b"x" + good[1:])
        for address in (f"objects/{digest}", f"runs/{RUN}/bundle"):
            answer = client.get(f"/api/v1/{address}")
            assert answer.status_code == 502 and str(pretended.folder) not in answer.text
    finally:
        path.write_bytes(good)
    assert client.get(f"/api/v1/objects/{digest}").status_code == 200


def test_an_unreadable_ledger_is_unavailable_and_says_nothing_about_the_inside(pretended: Pretended, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.db"
    ledger.write_bytes((pretended.folder / "ledger.db").read_bytes())
    client = TestClient(create_app(open_services(f"sqlite:///{ledger}", pretended.objects_url)), raise_server_exceptions=False)
    assert client.get("/healthz").json() == {"status": "ok"}
    ledger.write_bytes(b"no database" * 1000)
    for path in ("/api/v1/runs", "/healthz", "/", f"/runs/{RUN}"):
        answer = client.get(path)
        assert answer.status_code == 503 and str(tmp_path) not in answer.text and "Traceback" not in answer.text


def test_serving_changes_no_byte(client: TestClient, pretended: Pretended) -> None:
    def state() -> dict[str, str]:
        files = [path for path in pretended.folder.rglob("*") if path.is_file() and not path.name.endswith("-shm")]
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    before = state()
    for path in ("/", f"/runs/{RUN}", "/log", "/log/entries/3", f"/api/v1/runs/{RUN}/bundle", f"/api/v1/runs/{RUN}/verdicts"):
        assert client.get(path).status_code == 200
    assert state() == before
