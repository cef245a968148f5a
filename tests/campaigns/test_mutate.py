"""The mutation testing has teeth itself: changes are what they say, children judge them, survivors are told."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from protocol.merkle import node_digest
from tests.campaigns.judge import Judge
from tests.campaigns.mutants import EXPLAINED, ROOT, TESTS, Mutant, explained, sources, summary
from tests.campaigns.mutate import every, mutated

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


def test_the_tests_exist() -> None:
    assert all((ROOT / test).exists() for test in TESTS)
    assert "protocol/schedule/opening.py" in sources() and len(sources()) > 45


def test_what_is_changed() -> None:
    found = [(key.removeprefix("m.py: "), names) for key, names in every("m.py", SOURCE)]
    assert [key for key, _ in found] == [
        ": 5 -> 6 in LIMIT = 5", "f: 2 -> 3 in a: int, b: int=2", "f: if a < b and (not b) -> if not (a < b and (not b))",
        "f: a < b and (not b) -> a < b or not b", "f: a < b -> a <= b", "f: not b -> b in a < b and (not b)",
        "f: raise ValueError('too small', 3) -> pass", "f: require(a != b, 'why', 'here') -> pass", "f: a != b -> a == b",
        "f: g(a, b) - LIMIT -> g(a, b) + LIMIT in return g(a, b) - LIMIT", "f: g(a, b) -> g(b, a)",
    ]
    originals = ast.unparse(ast.parse(SOURCE))
    for number, (_, names) in enumerate(found):
        text = mutated(SOURCE, number)
        assert text != originals and ast.unparse(ast.parse(text)) == text
        assert names == (() if number < 2 else ("f",))  # default values are no part of a function's code


def test_keys_are_unique_and_explanations_are_about_mutants_that_exist() -> None:
    keys: set[str] = set()
    for path in sources():
        found = [key for key, _ in every(path, (ROOT / path).read_text(encoding="utf-8"))]
        assert len(set(found)) == len(found)
        keys |= set(found)
    assert not set(explained()) - keys, f"{EXPLAINED.name}: no such mutants (any more)"
    assert all(why for why in explained().values())


def test_what_is_not_judged_fails_the_campaign(capsys: pytest.CaptureFixture[str]) -> None:
    mutants = [Mutant("a.py", n, f"a.py: {n}", ("f",)) for n in range(5)]
    known, found = {"a.py: 0": "why"}, {"a.py: 1": "killed", "a.py: 2": "timeout", "a.py: 3": "passed"}
    assert summary(mutants, known, found) == 2
    assert "tried 3 of 5, killed 2 (1 by time), explained 1, survivors 1" in capsys.readouterr().out
    assert summary(mutants[:3], known, found) == 0


JUDGED = '''
import pytest
from protocol.merkle import leaf_digest, node_digest


@pytest.fixture(scope="module")
def made() -> str:
    return node_digest(b"a", b"b").hex()


def test_function() -> None:
    assert node_digest(b"a", b"c").hex() == "{node}"


def test_fixture(made: str) -> None:
    assert made == "{made}" and node_digest(b"", b"")
'''


@pytest.mark.parametrize(("tests", "more"), [("test_function", ",DIGEST_BYTES = 32"), ("test_fixture", "")])
def test_a_judge_of_merkle(tmp_path: Path, tests: str, more: str) -> None:
    """The whole program on one module with one test: it sees left and right exchanged, in the call or in a fixture made before."""
    test, results = tmp_path / "test_it.py", tmp_path / "results"
    test.write_text(JUDGED.format(node=node_digest(b"a", b"c").hex(), made=node_digest(b"a", b"b").hex()), encoding="utf-8")
    only = "node_digest,: leaf_digest" + more
    command = [sys.executable, "-m", "tests.campaigns.mutants", "--only", only, "--tests", f"{test}::{tests}",
               "--results", str(results)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = {e["key"]: e["verdict"] for line in results.read_text(encoding="utf-8").splitlines() for e in [json.loads(line)]}
    inside = [v for key, v in found.items() if ": node_digest: " in key and " + right" in key]
    assert inside and set(inside) == {"killed"}, done.stdout
    assert "uncalled" in found.values() and "(no test calls it)" in done.stdout and done.returncode == 1
    assert "mutants: tried" in done.stdout


def test_no_long_test_takes_the_place_of_quick_ones() -> None:
    """However often it has killed: each kind has a budget of its own."""
    judge, function = Judge(lambda _: None, budget=1.0), ("m.py", "f")
    judge.seconds = {"long": 3.0, "longer": 4.0} | {f"quick {n}": 0.15 for n in range(9)}
    judge.calls, judge.kills = {function: set(judge.seconds)}, {("m.py", "long"): 50, ("m.py", "quick 5"): 3}
    found = judge.order("m.py", function)
    assert found[:2] == ["long", "quick 5"] and "longer" not in found and len(found) == 1 + 7  # the seventh begins within a second
