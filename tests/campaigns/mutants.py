"""`make mutants`: do the tests notice when the code that an auditor reads is wrong?

Every module of protocol/ and verifier/ is changed in one place at a time (mutate.py) and the fastest tests of that module run in a
process forked from one that has NumPy, torch and pytest loaded; a mutant that they let pass is a survivor. Survivors that behave as
the original does are explained, one line each, in mutants_explained.txt: `key => why`. Exit 1 on any other.

    python -m tests.campaigns.mutants [--sample N] [--seed S] [--seconds T] [--only TEXT]     default: all mutants, hours of one core
"""

import argparse
import contextlib
import importlib
import importlib.abc
import importlib.machinery
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from tests.campaigns.mutate import keys, mutated

ROOT = Path(__file__).parents[2]
EXPLAINED = Path(__file__).with_name("mutants_explained.txt")
HEAVY = (
    "numpy",
    "pytest",
    "hypothesis",
    "torch",
    "jsonschema",
    "mpmath",
    "cryptography.hazmat.primitives.asymmetric.ed25519",
    "sqlalchemy",
)
SLOWER, LEAST = 5, 20  # a mutant has this many times the processor time of the honest code, and at least so many seconds


def answers(*suites: str) -> list[str]:
    return [f"tests/vectors/test_vectors.py::test_answers[{name}]" for name in suites]


LIES = ["tests/attacks/test_lies.py", "tests/prover/test_executor.py"]
LAYER_LIES = [*LIES, "tests/attacks/test_architecture_lies.py", "tests/prover/test_architectures.py"]
SCHEDULE = ["tests/protocol/test_claims.py", *answers("proof"), "tests/attacks/test_messages.py", "tests/attacks/test_mutations.py"]
REASONS = ["tests/attacks/test_reasons.py"]
TESTS: dict[str, list[str]] = {
    "protocol/channel.py": [*answers("transcript"), "tests/protocol/test_channel.py", *answers("proof")],
    "protocol/code.py": [*answers("code"), "tests/protocol/test_code.py"],
    "protocol/encoding.py": answers("encoding", "manifest"),
    "protocol/errors.py": ["tests/protocol/test_errors.py", *REASONS],
    "protocol/field.py": [*answers("field", "code"), "tests/protocol/test_field.py"],
    "protocol/layout.py": [*answers("layout"), "tests/protocol/test_layout.py", *answers("proof", "statement")],
    "protocol/manifest.py": [*answers("manifest", "statement"), "tests/protocol/test_manifest.py"],
    "protocol/merkle.py": [*answers("merkle"), "tests/protocol/test_merkle.py"],
    "protocol/model_config.py": [*answers("rope"), "tests/protocol/test_model_config.py"],
    "protocol/optimizer.py": [*answers("optimizer"), "tests/protocol/test_optimizer.py"],
    "protocol/params.py": [*answers("statement"), "tests/protocol/test_soundness.py"],
    "protocol/rope.py": [*answers("rope"), "tests/protocol/test_rope.py"],
    "protocol/soundness.py": ["tests/protocol/test_soundness.py", *REASONS],
    "protocol/statement.py": [*answers("statement"), *REASONS, "tests/protocol/test_statement.py", "tests/attacks/test_chain.py"],
    "protocol/streams.py": [*answers("streams"), "tests/protocol/test_streams.py"],
    "protocol/relation/attention.py": LAYER_LIES,
    "protocol/relation/base.py": LAYER_LIES,
    "protocol/relation/clip.py": ["tests/attacks/test_lies_optimizer.py", "tests/prover/test_optimizer.py"],
    "protocol/relation/context.py": LIES,
    "protocol/relation/embed.py": LIES,
    "protocol/relation/graph.py": [*answers("rounding"), *SCHEDULE[:2], *LIES],
    "protocol/relation/head.py": LIES,
    "protocol/relation/layer.py": LAYER_LIES,
    "protocol/relation/lora.py": LAYER_LIES,
    "protocol/relation/mlp.py": LIES,
    "protocol/relation/model.py": [*LAYER_LIES, "tests/attacks/test_lies_rotation.py", "tests/protocol/test_statement.py"],
    "protocol/relation/norm.py": LAYER_LIES,
    "protocol/relation/rounding.py": [*answers("rounding"), "tests/protocol/test_rounding.py"],
    "protocol/relation/softmax.py": LIES,
    "protocol/relation/tables.py": [*answers("tables", "rope")],
    "protocol/relation/tokens.py": LIES,
    "protocol/relation/update.py": ["tests/attacks/test_lies_optimizer.py", "tests/prover/test_optimizer.py", *LIES],
    "protocol/schedule/claims.py": SCHEDULE,
    "protocol/schedule/constraints.py": SCHEDULE,
    "protocol/schedule/gkr.py": [*SCHEDULE, *REASONS],
    "protocol/schedule/lookups.py": SCHEDULE,
    "protocol/schedule/opening.py": SCHEDULE,
    "protocol/schedule/products.py": SCHEDULE,
    "protocol/schedule/sumcheck.py": ["tests/protocol/test_channel.py", *SCHEDULE, *REASONS],
    "protocol/schedule/task.py": SCHEDULE,
    "protocol/schedule/triples.py": ["tests/protocol/test_channel.py", *SCHEDULE, *REASONS],
    "verifier/__main__.py": ["tests/verifier/test_bundle.py", "tests/e2e/test_wheel.py"],
    "verifier/bundle.py": [*answers("bundle"), *REASONS, "tests/verifier/test_bundle.py"],
    "verifier/evidence.py": [*answers("bundle"), *REASONS, "tests/verifier/test_bundle.py"],
    "verifier/log.py": [*answers("log", "note"), "tests/verifier/test_log.py"],
    "verifier/note.py": [*answers("note"), "tests/verifier/test_note.py"],
    "verifier/order.py": [*answers("statement"), "tests/verifier/test_order.py"],
    "verifier/receipt.py": [*answers("receipt"), "tests/verifier/test_receipt.py"],
    "verifier/report.py": ["tests/verifier/test_report.py"],
    "verifier/run.py": [*REASONS, "tests/attacks/test_chain.py", "tests/cli/test_judge.py"],
    "verifier/sample.py": [*answers("streams"), "tests/verifier/test_sample.py"],
    "verifier/task.py": [*REASONS, "tests/attacks/test_chain.py"],
}


class _Changed(importlib.abc.MetaPathFinder, importlib.abc.SourceLoader):
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


def outcome(prepare: Callable[[], None], tests: Sequence[str], seconds: int) -> str:
    """ "passed", "failed" or "timeout" of the tests in a child process that has called `prepare`."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setpgid(0, 0)
            null = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(null, descriptor)
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
            resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            prepare()
            pytest = importlib.import_module("pytest")
            os._exit(min(int(pytest.main([*tests, "-x", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0"])), 100))
        except BaseException:
            os._exit(101)
    stop = time.monotonic() + 30 * seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        if time.monotonic() > stop:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return "timeout"
        time.sleep(0.02)
    if os.WIFSIGNALED(status):
        return "timeout"
    code = os.waitstatus_to_exitcode(status)
    return "passed" if code == 0 else "no tests" if code in (4, 5) else "failed"


def load_everything() -> None:
    """Import what the tests import, so that children need not; nothing is run, so no thread is started."""
    for folder in ("protocol", "verifier", "prover", "storage", "tasks", "cli", "tests/support", "tests/campaigns/vectors"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path.stem != "__main__" or folder == "verifier":
                with contextlib.suppress(ImportError):
                    importlib.import_module(module_of(path.relative_to(ROOT).as_posix()))


def existing(tests: Sequence[str]) -> list[str]:
    return [t for t in tests if (ROOT / t.split("::")[0]).exists()]


def honest_limit(tests: Sequence[str]) -> int:
    """Seconds of processor time for a mutant, from what the honest code takes; 0 if its tests fail."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    if outcome(lambda: None, tests, 600) != "passed":
        return 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return max(LEAST, int(SLOWER * (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)))


def explained() -> dict[str, str]:
    lines = EXPLAINED.read_text(encoding="utf-8").splitlines() if EXPLAINED.exists() else []
    return {key: why for line in lines if " => " in line and not line.startswith("#") for key, why in [line.rsplit(" => ", 1)]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("sample", 0), ("seed", 1), ("seconds", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    for name in HEAVY:
        importlib.import_module(name)
    os.chdir(ROOT)
    texts = {path: (ROOT / path).read_text(encoding="utf-8") for path in TESTS}
    every = [(path, n, key) for path in TESTS for n, key in enumerate(keys(path, texts[path])) if options.only in key]
    known, chosen = explained(), list(every)
    if options.sample:
        chosen = random.Random(options.seed).sample(every, min(options.sample, len(every)))
    changed = [(path, key, *mutated(texts[path], number)) for path, number, key in chosen if key not in known]
    counts = {"tried": len(chosen) - len(changed), "killed": 0, "timeout": 0}
    survivors: list[str] = []
    allowed: dict[tuple[str, bool], int] = {}
    end = time.monotonic() + options.seconds if options.seconds else None
    loaded = False
    for path, key, source, names in sorted(changed, key=lambda c: bool(c[3])):  # those outside functions first
        if end is not None and time.monotonic() > end:
            break
        if names and not loaded:
            load_everything()
            loaded = True
        tests, honest = existing(TESTS[path]), (path, loaded)
        if honest not in allowed:
            allowed[honest] = honest_limit(tests)
            if not allowed[honest]:
                print(f"{path}: its tests do not pass without a mutation: {' '.join(tests)}", flush=True)
        if not allowed[honest]:
            continue
        install = (
            (lambda p=path, s=source, n=names: change_code(p, s, n))
            if names
            else (lambda p=path, s=source: sys.meta_path.insert(0, _Changed(p, s)))
        )
        found = outcome(install, tests, allowed[honest])
        counts["tried"] += 1
        if found == "passed":
            survivors.append(key)
            print(f"SURVIVED {key}", flush=True)
        else:
            counts["killed" if found == "failed" else "timeout"] += 1
    broken = sorted({path for (path, _), limit in allowed.items() if not limit})
    print(
        f"mutants: tried {counts['tried']} of {len(every)}, killed {counts['killed'] + counts['timeout']} ({counts['timeout']} by time), "
        f"explained {len(chosen) - len(changed)}, survivors {len(survivors)}" + (f", not judged: {broken}" if broken else "")
    )
    return 1 if survivors or broken else 0


if __name__ == "__main__":
    sys.exit(main())
