"""Which test notices a mutant: tests collected once, fixtures built once, each mutant judged in a forked process.

`Judge` runs inside a pytest session (as a plugin) and takes the place of its loop. First every test runs once on the honest code; what
functions of protocol/ and verifier/ it calls, how long it takes, and the values of fixtures of wider scope are kept. Then
`outcome(path, names, prepare)` forks, changes the code, and runs the tests that call the changed function, those first that cost
little and have killed much. Fixtures keep their honest values; a mutant that passes is judged once more with those made anew
whose making calls the function. What a process remembers can make a survivor, never a kill; a test that kills has passed alone,
in a process like the mutant's, on the honest code.
Called by tests/campaigns/mutants.py.
"""

import functools
import gc
import inspect
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
from _pytest.tmpdir import tmppath_result_key

ROOT = Path(__file__).parents[2]
QUICK = 0.2  # seconds in which a test is expected to fail, if it does
SLOWER, MORE = 3, 2.0  # a test has this many times its honest processor time, and so many seconds more
Function = tuple[str, str]  # (path, qualified name of the outermost function)


class Judge:
    """The plugin. `work(self)` is called when the honest run is done. A mutant that passes tests worth `budget` seconds of the
    honest code's time is called a survivor."""

    def __init__(self, work: Callable[["Judge"], None], budget: float) -> None:
        self.work, self.budget = work, budget
        self.store: dict[tuple[int, object], object] = {}
        self.items: dict[str, pytest.Item] = {}
        self.seconds: dict[str, float] = {}
        self.building = 0.0  # seconds that fixtures took, which belong to no test
        self.built: dict[str, float] = {}  # by fixture
        self.calls: dict[Function, set[str]] = {}
        self.makers: dict[Function, set[str]] = {}  # fixtures that call the function when they are built
        self.trusted: set[str] = set()
        self.kills: dict[tuple[str, str], int] = {}
        self.runs: dict[tuple[str, str], int] = {}
        self.costs: dict[str, float] = {}  # seconds until a test fails: few, even for a long one
        self.refused: list[str] = []

    # pytest's hooks ------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> object:
        """Fixtures of wider scope than a function, without an end of their own, are built once."""
        if fixturedef.scope == "function" or inspect.isgeneratorfunction(fixturedef.func):
            return None
        cache_key = fixturedef.cache_key(request)
        key = (id(fixturedef), cache_key if isinstance(cache_key, str | int | None) else id(cache_key))
        if key not in self.store:
            arguments = {name: request.getfixturevalue(name) for name in fixturedef.argnames}
            start = time.process_time()
            with _traced() as called:
                self.store[key] = fixturedef.func(**arguments)
            spent = time.process_time() - start
            self.building, self.built[fixturedef.argname] = self.building + spent, spent
            for function in called:
                self.makers.setdefault(function, set()).add(fixturedef.argname)
        fixturedef.cached_result = (self.store[key], cache_key, None)
        return self.store[key]

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = list(session.items)
        for item, following in zip(items, [*items[1:], None], strict=True):
            with _traced() as called:
                start = time.process_time() - self.building
                passed = run_item(item, following)
                spent = time.process_time() - self.building - start
            if not passed:
                self.refused.append(item.nodeid)
                continue
            self.items[item.nodeid], self.seconds[item.nodeid] = item, spent
            for function in called:
                self.calls.setdefault(function, set()).add(item.nodeid)
        gc.collect()
        gc.freeze()
        self.work(self)
        return True

    # judging -------------------------------------------------------------------------------------

    def alone(self, nodeid: str) -> float:
        """Seconds of a test in a session of its own, where its fixtures have to be built."""
        return self.seconds[nodeid] + sum(self.built.get(name, 0.0) for name in self.items[nodeid].fixturenames)  # type: ignore[attr-defined]

    def order(self, path: str, function: Function) -> list[str]:
        """Tests that call the function, the likeliest and cheapest first, until the budget is spent; quick tests have one of their
        own, so that no long one takes their place."""

        def worth(nodeid: str) -> tuple[float, str]:
            chance = (self.kills.get((path, nodeid), 0) + 0.1) / (self.runs.get((path, nodeid), 0) + 1)
            return -chance / (self.costs.get(nodeid, min(self.seconds[nodeid], QUICK)) + 0.02), nodeid

        left, chosen = {True: self.budget, False: self.budget}, []
        for nodeid in sorted(self.calls.get(function, ()), key=worth):
            quick = self.seconds[nodeid] <= QUICK
            if left[quick] > 0:
                left[quick] -= self.seconds[nodeid]
                chosen.append(nodeid)
        return chosen

    def outcome(self, path: str, names: tuple[str, ...], prepare: Callable[[], None]) -> tuple[str, str]:
        """("killed" | "timeout" | "passed" | "uncalled", the test that did it)."""
        function = (path, ".".join(names))
        every = self.order(path, function)
        if not every:
            return "uncalled", ""
        makers = self.makers.get(function, set())
        for fresh in (False, True):
            nodeids = [n for n in every if makers & set(self.items[n].fixturenames)] if fresh else every  # type: ignore[attr-defined]
            while nodeids:
                result, last = self.attempt(nodeids, prepare, fresh)
                for nodeid in nodeids[: nodeids.index(last) + 1]:
                    self.runs[path, nodeid] = self.runs.get((path, nodeid), 0) + 1
                if result == "passed":
                    break
                if last not in self.trusted:  # does it pass, alone in a process, on the honest code?
                    if self.attempt([last], lambda: None, fresh)[0] != "passed":
                        self.refused.append(last)
                        for known in self.calls.values():
                            known.discard(last)
                        nodeids.remove(last)
                        continue
                    self.trusted.add(last)
                self.kills[path, last] = self.kills.get((path, last), 0) + 1
                return result, last
        return "passed", ""

    def attempt(self, nodeids: list[str], prepare: Callable[[], None], fresh: bool) -> tuple[str, str]:
        """"passed", "killed" or "timeout", and the last test that ran, in a forked process."""
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            self._child(writing, nodeids, prepare, fresh)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            started = pipe.read().split()
        _, status, usage = os.wait4(pid, 0)
        last = nodeids[int(started[-1])] if started else nodeids[0]
        if status and not fresh:
            spent = usage.ru_utime + usage.ru_stime - sum(self.seconds[n] for n in nodeids[: nodeids.index(last)])
            self.costs[last] = (self.costs.get(last, spent) + max(spent, 0)) / 2
        if os.WIFSIGNALED(status):
            return "timeout", last
        return ("passed" if os.waitstatus_to_exitcode(status) == 0 else "killed"), last

    def _child(self, writing: int, nodeids: list[str], prepare: Callable[[], None], fresh: bool) -> None:
        try:
            silence()
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_AS, (address_space() + (12 << 30),) * 2)
            prepare()
            forget()
            if fresh:
                self.store.clear()
            for n, nodeid in enumerate(nodeids):
                os.write(writing, b"%d " % n)
                limit = SLOWER * self.seconds[nodeid] + MORE + (30 if fresh else 0)  # fixtures belong to no test
                signal.setitimer(signal.ITIMER_PROF, limit)
                signal.setitimer(signal.ITIMER_REAL, 10 * limit)
                if not run_item(self.items[nodeid], self.items[nodeids[n + 1]] if n + 1 < len(nodeids) else None):
                    os._exit(1)
            os._exit(0)
        except BaseException:
            os._exit(2)


def address_space() -> int:
    """Of this process, as RLIMIT_AS counts it."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def run_item(item: Any, following: Any) -> bool:
    """Set up, run, tear down, without reports; skipped is passed."""
    state, passed = item.session._setupstate, True
    item._initrequest()
    item.stash[tmppath_result_key] = {}  # what the report hook would leave for the fixture tmp_path
    try:
        state.setup(item)
        item.runtest()
    except pytest.skip.Exception:
        pass
    except (Exception, SystemExit, pytest.fail.Exception):
        passed = False
    try:
        state.teardown_exact(following)
    except Exception:
        passed = False
    return passed


def silence() -> None:
    """No input, no output."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)


def forget() -> None:
    """Empty the caches of the project's functions."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] in ("protocol", "verifier", "prover", "tests") and name != "prover.kernels.build":
            for value in list(vars(module).values()):
                if isinstance(value, functools._lru_cache_wrapper):
                    value.cache_clear()


@contextmanager
def _traced() -> Iterator[set[Function]]:
    """The functions of protocol/ and verifier/ that are called meanwhile, by their outermost function."""
    known: dict[Any, None] = {}
    found: set[Function] = set()
    before = sys.gettrace()

    def trace(frame: FrameType, event: str, argument: object) -> None:
        known[frame.f_code] = None

    sys.settrace(trace)
    try:
        yield found
    finally:
        sys.settrace(before)
        for code in known:
            if before is not None:
                before(SimpleNamespace(f_code=code), "call", None)  # type: ignore[arg-type]
            if code.co_filename.startswith((f"{ROOT}/protocol/", f"{ROOT}/verifier/")):
                path = Path(code.co_filename).relative_to(ROOT).as_posix()
                found.add((path, code.co_qualname.split(".<locals>")[0]))
