"""`make mutants`: do the tests notice when the code that an auditor reads is wrong?

Every module of protocol/ and verifier/ is changed in one place at a time (mutate.py), and the tests that call the changed function
judge it in a forked process (judge.py); changes outside functions are judged by a pytest of their own that imports the changed
module. A mutant that all of them let pass is a survivor. Survivors that behave as the original does are explained, one line each,
in mutants_explained.txt: `key => why`. Exit 1 on any other, and on a test that fails without a mutation.

    python -m tests.campaigns.mutants [--sample N] [--seed S] [--only TEXT,TEXT] [--results FILE]

--results keeps every verdict of an unchanged module (digest of its text) and continues there; survivors are judged again.
"""

import argparse
import collections
import contextlib
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import json
import os
import random
import resource
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from tests.campaigns.judge import ROOT, Judge, silence
from tests.campaigns.mutate import every, mutated

EXPLAINED = Path(__file__).with_name("mutants_explained.txt")
# what the tests load beside the project's own modules
HEAVY = ("numpy", "pytest", "hypothesis", "torch", "jsonschema", "mpmath", "sqlalchemy", "cryptography.hazmat.primitives.serialization")
TESTS = [
    "tests/vectors/test_vectors.py",
    "tests/protocol",
    "tests/verifier",
    "tests/attacks",
    "tests/prover/test_executor.py",
    "tests/prover/test_optimizer.py",
    "tests/prover/test_architectures.py",
    "tests/cli/test_judge.py",
    "tests/cli/test_evidence.py",
]
OPTIONS = ["-q", "-s", "--tb=no", "-p", "no:cacheprovider", "-p", "no:xdist", "--hypothesis-seed=0", "--hypothesis-profile=mutants"]


@dataclass(frozen=True)
class Mutant:
    path: str
    number: int
    key: str
    names: tuple[str, ...]


class Changed(importlib.abc.MetaPathFinder, importlib.abc.SourceLoader):
    """Finds one module with other source than its file has: for changes outside functions, before the module is imported."""

    def __init__(self, path: str, source: str) -> None:
        self.path, self.source = path, source

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self, origin=str(ROOT / self.path)) if name == module_of(self.path) else None

    def get_filename(self, name: str) -> str:
        return str(ROOT / self.path)

    def get_data(self, path: str) -> bytes:
        return self.source.encode()

    def get_code(self, name: str) -> CodeType:
        return compile(self.source, str(ROOT / self.path), "exec")


def module_of(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def change_code(path: str, source: str, names: Sequence[str]) -> None:
    """Give a function that is already imported, wherever it is known by, the code that it has in `source`."""
    code = compile(source, str(ROOT / path), "exec")
    place: Any = sys.modules[module_of(path)]
    for name in names:
        code = next(x for x in code.co_consts if isinstance(x, CodeType) and x.co_name == name)
        place = vars(place)[name]
    while not isinstance(place, FunctionType):
        place = getattr(place, next(x for x in ("__func__", "fget", "func", "__wrapped__") if hasattr(place, x)))
    while hasattr(place, "__wrapped__"):
        place = place.__wrapped__
    place.__code__ = code


def with_import(path: str, source: str, tests: Sequence[str], seconds: float) -> str:
    """ "passed", "killed" or "timeout" of the tests in a child process that imports the changed module."""
    pid = os.fork()
    if pid == 0:
        try:
            silence()
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            signal.setitimer(signal.ITIMER_PROF, seconds)
            signal.setitimer(signal.ITIMER_REAL, 10 * seconds)
            sys.meta_path.insert(0, Changed(path, source))
            os._exit(min(int(importlib.import_module("pytest").main([*tests, "-x", *OPTIONS])), 100))
        except BaseException:
            os._exit(101)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return "timeout"
    return "killed" if os.waitstatus_to_exitcode(status) else "passed"


def sources() -> list[str]:
    paths = (path for folder in ("protocol", "verifier") for path in (ROOT / folder).rglob("*.py"))
    return sorted(path.relative_to(ROOT).as_posix() for path in paths if path.stem != "__init__")


def explained() -> dict[str, str]:
    lines = EXPLAINED.read_text(encoding="utf-8").splitlines() if EXPLAINED.exists() else []
    return {key: why for line in lines if " => " in line and not line.startswith("#") for key, why in [line.rsplit(" => ", 1)]}


class Results:
    """Verdicts by key, appended to a file as they are found."""

    def __init__(self, path: Path, digests: dict[str, str]) -> None:
        self.path, self.digests, self.found = path, digests, dict[str, str]()
        self.out = os.fdopen(os.dup(1), "w")  # the tests' own output goes nowhere
        self.read()

    def read(self) -> None:
        for line in self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []:
            entry = json.loads(line)
            if entry["digest"] == self.digests.get(entry["key"].split(":")[0]):
                self.found[entry["key"]] = entry["verdict"]

    def add(self, mutant: Mutant, verdict: str, test: str) -> None:
        self.found[mutant.key] = verdict
        if verdict in ("passed", "uncalled"):
            print(f"SURVIVED {mutant.key}" + (" (no test calls it)" if verdict == "uncalled" else ""), file=self.out, flush=True)
        entry = {"key": mutant.key, "verdict": verdict, "test": test, "digest": self.digests[mutant.path]}
        with self.path.open("a", encoding="utf-8") as out:
            out.write(json.dumps(entry) + "\n")

    def is_killed(self, key: str) -> bool:
        return self.found.get(key) in ("killed", "timeout")


def judge_functions(
    todo: Sequence[Mutant], texts: dict[str, str], tests: Sequence[str], results: Results, notes: Path, budget: float
) -> None:
    """In one pytest session. `notes` gets, by module, the tests that call it, cheapest first, and those that fail without a mutation."""

    def work(judge: Judge) -> None:
        for mutant in todo:
            def prepare(m: Mutant = mutant) -> None:
                change_code(m.path, mutated(texts[m.path], m.number), m.names)

            results.add(mutant, *judge.outcome(mutant.path, mutant.names, prepare))
        callers: dict[str, set[str]] = {}
        for (path, _), nodeids in judge.calls.items():
            callers.setdefault(path, set()).update(nodeids)
        ordered = {p: [(n, judge.seconds[n]) for n in sorted(c, key=judge.alone)] for p, c in callers.items()}
        notes.write_text(json.dumps({"callers": ordered, "refused": sorted(set(judge.refused))}))

    importlib.import_module("pytest").main([*tests, *OPTIONS], plugins=[Judge(work, budget)])


def in_child(function: Callable[[], None]) -> None:
    """So that this process never imports the project's modules; without output."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        silence()
        with contextlib.suppress(BaseException):
            function()
        os._exit(0)
    os.waitpid(pid, 0)


def judge_imports(
    todo: Sequence[Mutant], texts: dict[str, str], callers: dict[str, list[tuple[str, float]]], results: Results, budget: float
) -> None:
    """Each in a pytest session of its own, with the cheapest tests that call the module."""
    for name in HEAVY if todo else ():
        importlib.import_module(name)
    for mutant in todo:
        left, tests = 2 * budget, list[str]()
        for nodeid, seconds in callers.get(mutant.path, ()):
            if len(tests) < 200 and (left := left - seconds) > 0:
                tests.append(nodeid)
        verdict = with_import(mutant.path, mutated(texts[mutant.path], mutant.number), tests, 6 * budget + 60) if tests else "uncalled"
        results.add(mutant, verdict, "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="keys that contain one of these texts, separated by commas, in this order")
    parser.add_argument("--tests", default="", help="only these tests, separated by commas")
    parser.add_argument("--budget", type=float, default=20, help="seconds of the honest code's tests for one mutant")
    parser.add_argument("--results", default="")
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "VERILORA_THREADS": "1"}
    # under a limit, however large, the prover's heap takes no addresses in advance, so that a mutant's memory is counted (judge.py)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 46, resource.getrlimit(resource.RLIMIT_AS)[1]))
    importlib.import_module("hypothesis").settings.register_profile("mutants", deadline=None)
    os.chdir(ROOT)
    texts = {path: (ROOT / path).read_text(encoding="utf-8") for path in sources()}
    mutants = [Mutant(path, n, key, names) for path in texts for n, (key, names) in enumerate(every(path, texts[path]))]
    chosen = [m for part in options.only.split(",") for m in mutants if part in m.key]
    chosen = list({m.key: m for m in chosen}.values())
    if options.sample:
        chosen = random.Random(options.seed).sample(chosen, min(options.sample, len(chosen)))
    known = explained()
    digests = {path: hashlib.sha256(text.encode()).hexdigest()[:16] for path, text in texts.items()}
    with tempfile.TemporaryDirectory() as folder:
        results = Results(Path(options.results or Path(folder) / "results"), digests)
        notes = Path(folder) / "notes"
        todo = [m for m in chosen if m.key not in known and not results.is_killed(m.key)]
        tests = options.tests.split(",") if options.tests else TESTS
        in_child(lambda: judge_functions([m for m in todo if m.names], texts, tests, results, notes, options.budget))
        if not notes.exists():
            print("mutants: the session of tests ended early; what it found is in --results")
            return 1
        found = json.loads(notes.read_text(encoding="utf-8"))
        judge_imports([m for m in todo if not m.names], texts, found["callers"], results, options.budget)
        results.read()
    for nodeid in found["refused"]:
        print(f"FAILS WITHOUT A MUTATION {nodeid}")
    return 1 if summary(chosen, known, results.found) or found["refused"] else 0


def summary(chosen: Sequence[Mutant], known: dict[str, str], found: dict[str, str]) -> int:
    """Prints a line for each module and the one of the campaign; the number of survivors."""
    total: collections.Counter[str] = collections.Counter()
    modules: dict[str, collections.Counter[str]] = {}
    for m in chosen:
        verdict = "explained" if m.key in known else found.get(m.key, "not judged")
        verdict = "survivors" if verdict in ("passed", "uncalled") else verdict
        total[verdict] += 1
        modules.setdefault(m.path, collections.Counter())[verdict] += 1
    for path, counts in modules.items():
        print(f"  {path}: " + ", ".join(f"{name} {counts[name]}" for name in sorted(counts)))
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(
        f"mutants: tried {total.total() - total['not judged'] - total['explained']} of {len(chosen)}, "
        f"killed {total['killed'] + total['timeout']} ({total['timeout']} by time), explained {total['explained']}, "
        f"survivors {total['survivors']}, {sum(u.ru_utime + u.ru_stime for u in usage):.0f} s of processor time"
    )
    return total["survivors"] + total["not judged"]


if __name__ == "__main__":
    sys.exit(main())
