"""Pages as HTML: what they say and who says it, hostile rows, sizes and queries of large runs. Looks are test_browser.py's."""

import html
import re
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from api.app import create_app, open_services
from api.claims import LossPoint, losses, soundness
from api.views import CURVE_POINTS, curve
from storage.ledger import open_ledger
from storage.models import NONE, WHOLE_RUN, EventRow, ProofRow, StatementRow, VerdictRow
from storage.object_store import open_object_store
from tests.api.pretend import Pretended, Shape, append, make, rows_of, sha
from tests.cli.build_run import RUN_ID, Built

RUN, REJECTED, PROVING = "8c1f0e77a2d4b690", "27d0b1c95e3fa846", "f3a9c64b1180de25"


def text(client: TestClient, path: str) -> str:
    answer = client.get(path)
    assert answer.status_code == 200, (path, answer.text)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return answer.text


def every_link(client: TestClient, start: str) -> dict[str, int]:
    """Status of every local address that can be reached from here by links."""
    seen: dict[str, int] = {}
    waiting = [start]
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        answer = client.get(path)
        seen[path] = answer.status_code
        if answer.headers.get("content-type", "").startswith("text/html"):
            for found in re.findall(r'(?:href|action)="([^"#]+)[^"]*"', answer.text):
                found = found.replace("&amp;", "&")
                assert found.startswith(("/", "?")) and not found.startswith("//"), found
                waiting.append(found if found.startswith("/") else path.partition("?")[0] + found)
    return seen


def test_every_link_leads_somewhere(client: TestClient) -> None:
    seen = every_link(client, "/")
    assert len(seen) > 200 and {path: status for path, status in seen.items() if status != 200} == {}
    assert any("/objects/" in path for path in seen) and any("/log/entries/" in path for path in seen)


def test_a_real_run_is_shown_and_its_bundle_offered(built: Built) -> None:
    client = TestClient(create_app(open_services(built.ledger_url, built.objects_url)))
    page = text(client, f"/runs/{RUN_ID}")
    assert "10 of 10" in page and "Loss by step" in page and f"verilora verify {RUN_ID}" in page and "Nobody has appended a verdict" in page
    assert {status for path, status in every_link(client, f"/runs/{RUN_ID}").items()} == {200}
    assert client.get(f"/api/v1/runs/{RUN_ID}/bundle").content[:2] == b"PK"


def test_verdicts_are_told_with_their_signer(client: TestClient) -> None:
    page = text(client, f"/runs/{RUN}")
    assert page.count("signature valid") == 1 and page.count("nobody: not signed") == 1
    assert "each is a claim of its signer" in page and "Whose key it is, you have to know" in page
    rejected = text(client, f"/runs/{REJECTED}")
    assert rejected.count('class="cell rejected"') == 2  # the task and the legend
    assert "“<span class=\"bad\">rejected</span>”" in rejected


def test_a_receipt_that_says_something_else_or_is_forged_has_no_signer(tmp_path: Path) -> None:
    made = make(tmp_path)
    book = open_ledger(made.ledger_url)
    [signed] = [row for row in book.record(RUN).verdicts if row.signature]
    assert signed.signature
    forged = signed.signature.replace('"sig":"', '"sig":"AAAA', 1)
    book.append(replace(signed, verification="p4", verifier="turned", accepted=False, created=None))
    book.append(replace(signed, verification="p5", verifier="forged", signature=forged, created=None))
    book.append(replace(signed, verification="p6", verifier="text", signature="<b>receipt</b>", created=None))
    book.close()
    client = TestClient(create_app(open_services(made.ledger_url, made.objects_url)))
    signers = {item["verifier"]: item["signed_by"] for item in client.get(f"/api/v1/runs/{RUN}").json()["verifications"]}
    assert signers.pop("Example Audit") and set(signers) == {"somebody", "turned", "forged", "text"} and set(signers.values()) == {None}
    assert text(client, f"/runs/{RUN}").count("signature valid") == 1


def test_parts_of_a_step_share_a_square(tmp_path: Path) -> None:
    made = Pretended(f"sqlite:///{tmp_path / 'ledger.db'}", f"file:{tmp_path / 'objects'}", tmp_path)
    shape = Shape("5b1f0e77a2d4b690", layers=2, steps=4, window_steps=2, parts=3)
    book, rows = open_ledger(made.ledger_url), rows_of(shape, open_object_store(made.objects_url))
    late = {row.statement_id for row in rows if isinstance(row, StatementRow) and (row.kind, row.window, row.part) == ("layer", 1, 2)}
    absent = {row.statement_id for row in rows if isinstance(row, StatementRow) and (row.kind, row.window, row.part) == ("head", 1, 1)}
    proved = [row for row in rows if not isinstance(row, ProofRow) or row.statement_id not in late | absent]
    append(book, [row for row in proved if not isinstance(row, StatementRow) or row.statement_id not in absent])
    bad = next(row.statement_id for row in rows if isinstance(row, StatementRow) and (row.kind, row.part) == ("embed", 3))
    for subject in (bad, next(row.statement_id for row in rows if isinstance(row, StatementRow) and row.kind == "update")):
        book.append(VerdictRow("p", shape.run_id, subject, "somebody", subject != bad, ""))
    book.close()
    client = TestClient(create_app(open_services(made.ledger_url, made.objects_url)))
    page = text(client, f"/runs/{shape.run_id}")
    assert "One square is one task, or the 3 parts of one" in page and '<th scope="colgroup" colspan="2" class="c">update</th>' in page
    squares = dict(re.findall(r'aria-label="([^:"]*): ([^"]*)"', page))
    assert squares["embed(0)"] == "proofs of 3 of 3 parts recorded, by verdicts appended 1 rejected"
    assert squares["layer(0, 1)"] == "proofs of 3 of 3 parts recorded"
    assert squares["layer(1, 0)"] == "proofs of 2 of 3 parts recorded" == squares["head(1)"]
    assert squares["update(0, 0)"].endswith("1 accepted, 0 rejected") and squares["update(1, 1)"].endswith("no verdict appended")
    assert page.count('class="cell stated"') == 3 + 1 and len(client.get(f"/api/v1/runs/{shape.run_id}").json()["loss"]) == 4
    assert {status for path, status in every_link(client, f"/runs/{shape.run_id}").items()} == {200}
    window = text(client, f"/runs/{shape.run_id}/windows/1")
    assert "layer(1, 0) part 2" in window and window.index(">x/0/1@1<") < window.index(">x/0/2@1<") < window.index(">adapter/0@1<")


def test_runs_are_filtered_by_the_form(client: TestClient) -> None:
    page = text(client, "/?model=&dataset=&state=finished&since=2001-01-01&until=&verifier=somebody")
    assert f"/runs/{RUN}" in page and f"/runs/{REJECTED}" not in page and "<option selected>finished" in page
    assert "No run matches" in text(client, "/?model=nothing")
    for path in ("/?state=x", "/?since=x", "/?after=x", "/?unknown=1", "/log?below=x", f"/runs/{RUN}?from=x"):
        answer = client.get(path)
        assert answer.status_code == 422 and answer.headers["content-type"].startswith("text/html") and "<h1>" in answer.text


HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{'zq'*3}}\u202e\u0007'; DROP TABLE runs; --"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Pretended:
    """A run whose every text is an attack on a page."""
    folder = tmp_path_factory.mktemp("hostile")
    made = Pretended(f"sqlite:///{folder / 'ledger.db'}", f"file:{folder / 'objects'}", folder)
    shape = Shape(HOSTILE.replace("/", "|").replace("\u0007", ""), layers=1, steps=4, model=HOSTILE, changes={
        "dataset_owner": HOSTILE, "base_visibility": HOSTILE, "lora": {"r": HOSTILE, "target_modules": [HOSTILE]}, "seed": HOSTILE,
        "optimizer": {"kind": HOSTILE}, "model": {"layers": HOSTILE}, "commitments": {"dataset": HOSTILE}, "loss_tokens": HOSTILE,
    })
    rows = rows_of(shape, open_object_store(made.objects_url))
    book = open_ledger(made.ledger_url)
    append(book, rows)
    statement = next(row for row in rows if isinstance(row, StatementRow))
    for subject in (WHOLE_RUN, statement.statement_id):
        book.append(VerdictRow("pass-9", shape.run_id, subject, HOSTILE, False, HOSTILE, HOSTILE))
    book.append(EventRow(shape.run_id, HOSTILE, NONE, HOSTILE))
    content = '{"commitments":[["a","' + HOSTILE.replace('"', "") + '","x"]],"published":5}'
    odd = StatementRow(sha("odd"), shape.run_id, HOSTILE, 0, 0, 0, content)
    book.append(odd)
    book.append(ProofRow(odd.statement_id, sha("none"), 7, HOSTILE, 0.5, HOSTILE))
    book.append(StatementRow(sha("odd2"), shape.run_id, "head", 9, 0, 0, "[" * 3000))
    book.close()
    return made


def test_texts_of_rows_are_escaped(hostile: Pretended) -> None:
    client = TestClient(create_app(open_services(hostile.ledger_url, hostile.objects_url)))
    start = re.findall(r'href="(/runs/[^"]*script[^"]*)"', text(client, "/"))
    assert start
    absent = sha("none")
    paths = [*start, f"/statements/{sha('odd')}", f"/statements/{sha('odd2')}", *every_link(client, start[0])]
    pages = {path: client.get(path) for path in paths}
    assert len(pages) > 50
    for path, answer in pages.items():
        expected = 422 if "%07" in path else 404 if path.endswith(absent) else 200  # control characters are refused
        assert answer.status_code == expected, (path, answer.text[:300])
        if answer.headers["content-type"].startswith("text/html"):
            for raw in ("<script", "<img", "\u202e", "\u0007", "zqzqzq"):
                assert raw not in answer.text, (path, raw)
    command = re.search(r"verilora verify (.*?) --ledger", pages[start[0]].text, re.DOTALL)
    assert command and command[1].startswith("&#39;")  # quoted for a shell, then for HTML


def test_a_host_header_does_not_reach_a_command(client: TestClient) -> None:
    for host in ("x;rm -rf ~", "x'$(id)'", "a b", "<b>"):
        page = client.get(f"/runs/{RUN}", headers={"host": host}).text
        [command] = re.findall("curl --fail.*", html.unescape(page))
        assert "/bundle" in command and host not in command


def test_ten_thousand_statements(tmp_path: Path) -> None:
    made = Pretended(f"sqlite:///{tmp_path / 'ledger.db'}", f"file:{tmp_path / 'objects'}", tmp_path)
    open_object_store(made.objects_url)
    book = open_ledger(made.ledger_url)
    shape = Shape("large", layers=32, steps=294, window_steps=1)
    rows = rows_of(shape)
    append(book, rows, logged=False)
    assert sum(isinstance(row, StatementRow) for row in rows) > 10_000
    append(book, [VerdictRow("p", "large", row.statement_id, "v", True, "") for row in rows if isinstance(row, StatementRow)], logged=False)
    book.close()
    client = TestClient(create_app(open_services(made.ledger_url, made.objects_url)))
    after = client.get("/api/v1/runs/large/statements?limit=500").json()["next"]
    asked, found = [], {}
    sa.event.listen(sa.Engine, "before_cursor_execute", listen := lambda *_: asked.append(1))
    for path in ("/", "/runs/large", "/runs/large?from=200", "/runs/large/statements", f"/runs/large/statements?after={after}",
                 "/runs/large/windows/150", "/api/v1/runs", "/api/v1/runs/large", "/api/v1/runs/large/statements?limit=500"):
        asked.clear()
        answer = client.get(path)
        assert answer.status_code == 200
        found[path] = (len(asked), len(answer.content))
    sa.event.remove(sa.Engine, "before_cursor_execute", listen)
    assert all(0 < queries < 40 and size < 1_000_000 for queries, size in found.values()), found  # none for each statement


def test_what_cannot_be_read_is_no_claim() -> None:
    manifest = {"loss_tokens": [10, 10, "x"], "exponents": {"head/vocab.g": 4}, "window_steps": 2}

    def head(content: str, window: int = 0) -> StatementRow:
        return StatementRow("s", "r", "head", window, NONE, 0, content)

    assert losses(manifest, [head('{"published":{"loss":[320,160]}}')]) == [LossPoint(0, 2.0, "s"), LossPoint(1, 1.0, "s")]
    for bad in ("", "[]", "{", '{"published":[]}', '{"published":{"loss":{}}}', '{"published":{"loss":["1",1.5,null,true]}}', "[" * 9999):
        assert losses(manifest, [head(bad)]) == []
    assert losses(manifest, [head('{"published":{"loss":[1]}}', 1), head('{"published":{"loss":[1]}}', -9)]) == []
    assert losses({}, [head('{"published":{"loss":[1]}}')]) == []
    for bad in ("", "7", "{}", '{"bits":100}', '{"bits":1,"centibits":{}}', '{"bits":1,"total_bits":1,"centibits":{"a":"b"}}'):
        assert soundness(bad) is None


def test_a_long_curve_keeps_its_extremes() -> None:
    points = [LossPoint(step, 3.0 if step != 4321 else -7.5, "s") for step in range(20_000)]
    drawn = curve(points)
    assert drawn and drawn.path.count("L") <= CURVE_POINTS and "lowest -7.5000 at step 4321" in drawn.text and not drawn.dots
    single = curve([LossPoint(0, 0.0, "s")])
    assert single and len(single.y_ticks) > 1 and curve([]) is None
