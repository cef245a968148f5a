"""Reports: one page without scripts that escapes everything, JSON without floats, files that appear whole."""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from protocol.encoding import canonical_json
from protocol.statement import statement_id, task_list
from tests.cli.build_run import RUN_ID, Built
from tests.support.bundles import Leaf, policy, source_of
from tests.support.unproved import SURE, World, believed, logged
from tests.toy import EVEN, toy
from verifier.bundle import read_bundle
from verifier.evidence import Verdict, verify_bundle
from verifier.report import html, losses, report, write_report
from verifier.run import Job, TaskVerdict
from verifier.sample import Sample

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


# verdicts of a run about which nothing is proved ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def judged(world: World, spread: Callable[[Iterable[Job]], Iterator[TaskVerdict]] = believed, **options: object) -> Verdict:
    return verify_bundle(logged(world.leaves(), world.manifest.run_id), spread=spread, **options)  # type: ignore[arg-type]


def first_rejected(jobs: Iterable[Job]) -> Iterator[TaskVerdict]:
    for number, item in enumerate(believed(jobs)):
        yield item if number else replace(item, accepted=False, reason="opening at here", soundness=None, published={})


def test_the_loss_of_a_step_is_the_published_sum_over_its_tokens() -> None:
    """Windows of two steps and of one; sums in units of 2^−g."""
    manifest = toy(sizes=EVEN, target_modules=("q_proj",), steps=3, window_steps=2, batch_size=1, sequence_length=4, examples=3).manifest
    manifest = replace(manifest, exponents=manifest.exponents | {"head/vocab.g": 10}, loss_tokens=(2, 4, 3))
    sums = {0: [2 * 1536, 4 * 1024 + 1], 1: [3 * 512]}
    items = [
        TaskVerdict(task, statement_id(manifest, task), True, "", SURE,
                    {"loss": np.array(sums[task.window], dtype=np.int64)} if task.kind == "head" else {})
        for task in reversed(task_list(manifest))
    ]
    assert losses(manifest, items) == ["1.500000", f"{1 + 1 / 4096:.6f}", "0.500000"]
    assert losses(manifest, [item for item in items if (item.task.kind, item.task.window) != ("head", 0)]) == ["0.500000"]
    assert losses(manifest, [replace(item, published={}) for item in items]) == []
    assert losses(manifest, [replace(item, published=items[0].published) for item in items if item.task.kind != "head"]) == []


def test_a_loss_is_shown_only_if_the_run_publishes_it(world: World, values: dict) -> None:
    silent = World()
    silent.manifest = replace(world.manifest, publish_loss=False)
    found = report(judged(silent))
    assert found["public"]["loss"] == "not published" and found["public"]["publish_loss"] is False
    assert isinstance(values["public"]["loss"], list) and len(values["public"]["loss"]) == 2
    assert "not published" in Page(html(found)).words


def test_the_bits_of_all_proofs_together_come_from_the_sum_of_their_errors(world: World) -> None:
    count, found = len(task_list(world.manifest)), report(judged(world))
    assert count > 4 and found["bits"] == 101 and found["total_bits"] == math.floor(SURE.total_bits - math.log2(count))
    assert [item["bits"] for item in found["tasks"]] == [101] * count
    assert found["tasks"][0]["soundness"] == SURE.to_json() and found["proof_bytes"] == 5 * count


def test_one_rejected_task_leaves_no_bits(world: World) -> None:
    found = report(judged(world, first_rejected))
    first, *others = found["tasks"]
    assert found["bits"] == found["total_bits"] == first["bits"] == 0 and first["soundness"] == {}
    assert not first["accepted"] and first["reason"] == "opening at here"
    assert all(item["accepted"] and item["bits"] == 101 for item in others)
    rows = [line.split("<td>") for line in html(found).splitlines() if line.startswith("<tr><td>")]
    shown = {row[1].removesuffix("</td>"): row[2].removesuffix("</td>") for row in rows if len(row) == 7}
    assert shown == {first["task"]: "rejected"} | {item["task"]: "accepted" for item in others}


def test_bits_of_nothing_accepted_are_none(world: World) -> None:
    found = report(judged(world, lambda jobs: iter(())))
    assert found["reason"].endswith("not checked") and len(found["tasks"]) == len(task_list(world.manifest))
    assert found["bits"] == found["total_bits"] == 0 and not any(item["bits"] or item["accepted"] for item in found["tasks"])


def test_only_an_accepted_run_delivers_an_adapter(world: World) -> None:
    """The id that whoever gets the adapter compares: never of a run that was rejected, or of which a sample was seen."""
    wanted = {name: identity for name, identity in world.ids.items() if name.startswith("delivered/")}
    assert wanted and report(judged(world))["delivered"] == wanted
    assert report(judged(world, first_rejected))["delivered"] == {}
    assert report(judged(world, sample=Sample("00" * 16, 1)))["delivered"] == {}


def test_a_sample_is_named_on_the_page_and_nothing_else_is_called_one(world: World) -> None:
    drawn, whole = report(judged(world, sample=Sample("00" * 16, 1))), report(judged(world))
    count = len(task_list(world.manifest))
    assert drawn["sample"].startswith(f"a sample: 1 of {count} tasks") and f"1 of {count} tasks" in Page(html(drawn)).words
    assert whole["sample"] == "" and "<td>sample</td>" in html(drawn) and "<td>sample</td>" not in html(whole)


def test_rows_without_a_manifest_make_a_report_too() -> None:
    text = "no manifest"
    row = {"run_id": "r", "manifest_digest": hashlib.sha256(text.encode()).hexdigest(), "manifest": text}
    leaf: Leaf = {"table": "runs", "row": row}
    found = report(verify_bundle(logged([leaf], "r")))
    assert found["state"] == "rejected" and found["reason"].startswith("malformed at manifest") and found["public"] == {}
    assert found["log"]["size"] == 1 and found["digests"]["manifest"] == row["manifest_digest"]
    assert "size 1, root" in Page(html(found)).words


def test_the_file_is_sorted_and_indented(world: World, tmp_path: Path) -> None:
    """So that two reports can be compared line by line."""
    found = report(judged(world))
    write_report(tmp_path, found)
    assert (tmp_path / "report.json").read_text() == json.dumps(found, indent=2, sort_keys=True) + "\n"
    assert (tmp_path / "report.html").read_text() == html(found)
