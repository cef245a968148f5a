"""One holder of a key on a machine, whatever becomes of the others; among machines see tests/storage/test_machines.py."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from storage.holding import holding
from storage.ledger import Ledger, open_ledger
from storage.private import LocalPrivateStore

HOLDER = """
import sys, time
from storage.holding import holding
from storage.ledger import open_ledger
from storage.private import LocalPrivateStore
from pathlib import Path
with holding(LocalPrivateStore(Path(sys.argv[1]) / "private"), open_ledger(f"sqlite:///{sys.argv[1]}/ledger.db"), "a" * 64) as free:
    print(free, flush=True)
    time.sleep(600)
"""


def places(folder: Path) -> tuple[LocalPrivateStore, Ledger]:
    return LocalPrivateStore(folder / "private"), open_ledger(f"sqlite:///{folder / 'ledger.db'}")


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    private, ledger = places(tmp_path)
    for _ in range(2):
        with holding(private, ledger, "a" * 64) as first, holding(private, ledger, "a" * 64) as second:
            assert (first, second) == (True, False)
            with holding(private, ledger, "b" * 64) as other:
                assert other
    assert [p for p in private.root.iterdir() if p.is_file()] == []


def test_a_key_is_free_when_its_holder_is_killed(tmp_path: Path) -> None:
    private, ledger = places(tmp_path)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout and process.stdout.readline() == "True\n"
        with holding(private, ledger, "a" * 64) as free:
            assert not free
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    with holding(private, ledger, "a" * 64) as free:
        assert free


def test_many_threads_never_hold_together(tmp_path: Path) -> None:
    """The lock's file is removed and made anew all the time."""
    private, ledger = places(tmp_path)
    inside, worst, turns = [0], [0], [0]
    guard = threading.Lock()

    def work() -> None:
        for _ in range(300):
            with holding(private, ledger, "a" * 64) as free:
                if free:
                    with guard:
                        inside[0] += 1
                        turns[0] += 1
                        worst[0] = max(worst[0], inside[0])
                    with guard:
                        inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert worst == [1] and turns[0] > 300


def test_the_lock_of_a_file_that_is_gone_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between opening the file and locking it the last holder removes it, and somebody else holds a new one of that name."""
    private, ledger = places(tmp_path)
    path, flock, others = private.root / f".{'a' * 16}.lock", fcntl.flock, list[int]()

    def late(handle: int, operation: int) -> None:
        if not others:
            path.unlink()
            others.append(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            flock(others[0], operation)
        flock(handle, operation)

    monkeypatch.setattr("storage.holding.fcntl.flock", late)
    with holding(private, ledger, "a" * 64) as free:
        assert not free
    os.close(others[0])
    with holding(private, ledger, "a" * 64) as free:
        assert free
