"""Documents name things that exist: tests, files, commands."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from cli import app

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_every_test_that_the_threat_model_names_exists() -> None:
    named = set(re.findall(r"`([a-z_]+/test_[a-z_]+\.py|[a-z]+/)`", (ROOT / "docs" / "threat-model.md").read_text()))
    assert len(named) > 10
    assert sorted(name for name in named - {"protocol/", "verifier/", "tests/"} if not (ROOT / "tests" / name).exists()) == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", path.read_text())
    assert [target for target in targets if not (path.parent / target).exists()] == []


def test_every_command_in_the_readme_exists() -> None:
    groups = get_command(app).commands  # type: ignore[attr-defined]
    for words in re.findall(r"^    verilora (\w+)(?: (\w+))?", (ROOT / "README.md").read_text(), re.MULTILINE):
        assert words[0] in groups, words
        assert not hasattr(groups[words[0]], "commands") or words[1] in groups[words[0]].commands, words


def test_no_document_holds_an_open_end() -> None:
    for path in DOCUMENTS:
        assert not re.search(r"\b(TODO|FIXME|TBD|XXX)\b", path.read_text()), path
