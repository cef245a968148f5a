"""The mutation testing has teeth itself: every module is covered, changes are what they say, children judge them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from protocol.merkle import node_digest
from tests.campaigns.mutants import EXPLAINED, ROOT, TESTS, change_code, existing, explained, outcome
from tests.campaigns.mutate import keys, mutated

SOURCE = '''
"""Text."""

LIMIT = 5


def f(a: int, b: int = 2) -> int:
    """Text."""
    if a < b and not b:
        raise ValueError("too small", 3)
    require(a != b, "why", "here")
    return g(a, b) - LIMIT
'''


def test_every_module_has_tests_that_exist() -> None:
    modules = {p.relative_to(ROOT).as_posix() for d in ("protocol", "verifier") for p in (ROOT / d).rglob("*.py")}
    assert {m for m in modules if not m.endswith("__init__.py")} == set(TESTS)
    for tests in TESTS.values():
        assert existing(tests) == tests


def test_what_is_changed() -> None:
    found = [key.removeprefix("m.py: ") for key in keys("m.py", SOURCE)]
    assert found == [
        ": 5 -> 6 in LIMIT = 5", "f: 2 -> 3 in a: int, b: int=2", "f: if a < b and (not b) -> if not (a < b and (not b))",
        "f: a < b and (not b) -> a < b or not b", "f: a < b -> a <= b", "f: not b -> b in a < b and (not b)",
        "f: raise ValueError('too small', 3) -> pass", "f: require(a != b, 'why', 'here') -> pass", "f: a != b -> a == b",
        "f: g(a, b) - LIMIT -> g(a, b) + LIMIT in return g(a, b) - LIMIT", "f: g(a, b) -> g(b, a)",
    ]
    originals = ast.unparse(ast.parse(SOURCE))
    for number in range(len(found)):
        text, names = mutated(SOURCE, number)
        assert text != originals and ast.unparse(ast.parse(text)) == text
        assert names == (() if number < 2 else ("f",))  # default values are no part of a function's code


def test_keys_are_unique() -> None:
    for path in TESTS:
        found = keys(path, (ROOT / path).read_text(encoding="utf-8"))
        assert len(set(found)) == len(found)


def test_explanations_are_about_mutants_that_exist() -> None:
    every = {key for path in TESTS for key in keys(path, (ROOT / path).read_text(encoding="utf-8"))}
    assert not set(explained()) - every, f"{EXPLAINED.name}: no such mutants (any more)"
    assert all(why for why in explained().values())


@pytest.fixture
def judge(tmp_path: Path) -> Path:
    """A test that tells left from right."""
    test = tmp_path / "test_it.py"
    test.write_text("from protocol.merkle import node_digest\n\n\ndef test() -> None:\n"
                    f"    assert node_digest(b'a', b'b').hex() == '{node_digest(b'a', b'b').hex()}'\n")
    return test


PATH = "protocol/merkle.py"
HONEST = (ROOT / PATH).read_text(encoding="utf-8")
CHANGED = HONEST.replace("NODE_TAG + left + right", "NODE_TAG + right + left")


def test_children_judge_a_changed_function(judge: Path) -> None:
    assert CHANGED != HONEST
    assert outcome(lambda: None, [str(judge)], 60) == "passed"
    assert outcome(lambda: change_code(PATH, HONEST, ("node_digest",)), [str(judge)], 60) == "passed"
    assert outcome(lambda: change_code(PATH, CHANGED, ("node_digest",)), [str(judge)], 60) == "failed"
    assert outcome(lambda: None, [str(judge.with_name("absent.py"))], 60) == "no tests"


@pytest.mark.parametrize(("source", "wanted"), [(HONEST, "passed"), (CHANGED, "failed")])
def test_children_judge_a_changed_module(judge: Path, source: str, wanted: str) -> None:
    """In a process that has not imported it."""
    script = ("import sys; from tests.campaigns.mutants import _Changed, outcome; source, path, test = sys.stdin.read(), *sys.argv[1:]; "
              "print(outcome(lambda: sys.meta_path.insert(0, _Changed(path, source)), [test], 60))")
    command = [sys.executable, "-c", script, PATH, str(judge)]
    assert subprocess.check_output(command, input=source, text=True, cwd=ROOT).split() == [wanted]
