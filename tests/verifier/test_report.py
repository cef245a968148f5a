"""Reports: one page without scripts that escapes everything, JSON without floats, files that appear whole."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from protocol.encoding import canonical_json
from tests.cli.build_run import RUN_ID, Built
from tests.support.bundles import policy, source_of
from verifier.bundle import read_bundle
from verifier.evidence import Verdict, verify_bundle
from verifier.report import html, report, write_report

EVIL = '<script>alert("x")</script><img src=x onerror=alert(1)>&\'"'


@pytest.fixture(scope="module")
def values(built: Built, tmp_path_factory: pytest.TempPathFactory) -> dict:
    path = tmp_path_factory.mktemp("bundle") / "run.bundle"
    path.write_bytes(source_of(built).bytes())
    return report(verify_bundle(read_bundle(str(path)), policy()))


class Page(HTMLParser):
    """Tags and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_page_shows_verdict_tasks_and_what_became_public(values: dict) -> None:
    page = Page(html(values))
    assert f"Run {RUN_ID}: accepted" in page.words
    for item in values["tasks"]:
        assert item["task"] in page.words and item["statement"] in page.words
    for text in (values["log"]["root"], *values["digests"].values(), values["public"]["commitments"]["dataset"]):
        assert text in page.words
    assert all(loss in page.words for loss in values["public"]["loss"])


def test_the_page_loads_and_runs_nothing(values: dict) -> None:
    page = Page(html(values))
    assert not {"script", "img", "link", "iframe", "object", "form", "a"} & set(page.tags)
    assert not any(name.startswith("on") or name in ("src", "href", "style") for name, _ in page.attributes)
    assert "url(" not in html(values) and "@import" not in html(values)


def test_everything_is_escaped(values: dict) -> None:
    public = values["public"] | {"provers": [EVIL], EVIL: EVIL, "model": {EVIL: EVIL}}
    task = values["tasks"][0] | {"reason": EVIL, "statement": EVIL, "task": EVIL}
    evil = values | {"run": EVIL, "state": EVIL, "reason": EVIL, "order": EVIL, "sample": EVIL, "public": public, "tasks": [task],
                     "digests": {EVIL: EVIL}, "log": {"origin": EVIL, "size": EVIL, "root": EVIL, "trust": EVIL}}
    page, plain = Page(html(evil)), Page(html(values))
    assert set(page.tags) == set(plain.tags) and "script" not in page.tags
    assert page.words.count(EVIL) > 10
    assert {name for name, _ in page.attributes} == {name for name, _ in plain.attributes}


def test_json_holds_no_floats_and_says_everything(values: dict) -> None:
    assert canonical_json(values)
    assert values["state"] == "accepted" and values["accepted"] is True and values["reason"] == ""
    assert values["bits"] >= values["total_bits"] >= 90
    assert values["proof_bytes"] == sum(item["proof_bytes"] for item in values["tasks"])
    assert values["public"]["events"] == ["finished {}"] and len(values["public"]["proof_seconds"]) == 10


def test_a_rejection_without_anything_to_judge_is_a_report_too() -> None:
    values = report(Verdict("", b"", "missing-checkpoint at log", ""))
    assert values["state"] == "rejected" and values["tasks"] == [] and values["bits"] == values["total_bits"] == 0
    assert "missing-checkpoint" in Page(html(values)).words


def test_files_are_replaced_whole(values: dict, tmp_path: Path) -> None:
    for _ in range(2):
        write_report(tmp_path / "new" / "folder", values)
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == ["report.html", "report.json"]
    assert json.loads((tmp_path / "new" / "folder" / "report.json").read_text()) == values
