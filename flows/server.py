"""The embedded Prefect server: a child process on a free port of loopback, which ends when its parent does, however that happens.

    parent  with embedded() as ready: holds one end of a pipe; ready() waits          child  python -m flows.server PORT: serves until
            and sets PREFECT_API_URL                                                        the pipe is closed

Prefect's own temporary server survives a parent that is killed. It takes 10 s to start, during which the parent has other things to do.
Where PREFECT_API_URL names a server, that one is used. Called by `verilora run` before Prefect is imported, because Prefect reads its
environment then.
"""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

_STARTUP_SECONDS = 180.0  # a first start migrates its database: 14-24 s on 2 idle cores
_ATTEMPTS = 3  # a port that was free may be taken meanwhile
_KEPT = 1 << 14  # bytes of what it says
_ENVIRONMENT = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}


class ServerError(Exception):
    """The embedded server does not start: what it said."""


@contextlib.contextmanager
def embedded() -> Iterator[Callable[[], None]]:
    """A Prefect server that starts beside the block and ends with it. The block calls what it gets before it imports Prefect: that waits
    until the server answers, ServerError if it does not start. No server if the environment names one."""
    if os.environ.get("PREFECT_API_URL"):
        yield lambda: None
        return
    server = _Server()
    try:
        yield server.ready
    finally:
        server.stop()


class _Server:
    """The child; `url` is set once it has answered."""

    def __init__(self) -> None:
        self.url = ""
        self._spawn()

    def _spawn(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flows.server", str(self.port)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, env=os.environ | _ENVIRONMENT, start_new_session=True,  # Ctrl-C is the parent's business
        )
        self.said = bytearray()
        self.listener = threading.Thread(target=_listen, args=(self.process, self.said), name="prefect-server-stderr", daemon=True)
        self.listener.start()

    def ready(self) -> None:
        """Returns at once when it has answered before."""
        for attempt in range(0 if self.url else _ATTEMPTS):
            if attempt:
                self._spawn()
            if _answers(self.process, self.port):
                self.url = os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{self.port}/api"
                break
            self.stop()
        if self.url:
            return
        self.listener.join(1)
        lines = [line for line in self.said.decode(errors="replace").splitlines() if line[:1].strip()]  # not indented: no source quoted
        last = lines[-1][:300] if lines else "no answer"
        raise ServerError(f"the embedded Prefect server did not start ({last}): see --debug, or set PREFECT_API_URL to a server")

    def stop(self) -> None:
        """One that has not answered has nothing in hand: its database changes in transactions."""
        if self.url:
            del os.environ["PREFECT_API_URL"]
        else:
            self.process.kill()
        if self.process.stdin:
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _answers(process: "subprocess.Popen[bytes]", port: int) -> bool:
    end = time.monotonic() + _STARTUP_SECONDS
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError, urllib.error.URLError), opener.open(f"http://127.0.0.1:{port}/api/health", timeout=5) as answer:
            if answer.status == 200:
                return True
        time.sleep(0.1)
    return False


def _listen(process: "subprocess.Popen[bytes]", said: bytearray) -> None:
    """Takes what a server says, which must not wait for a reader; the end of it stays in `said`."""
    while process.stderr and (more := process.stderr.read1(1 << 16)):  # type: ignore[attr-defined]
        said += more
        del said[:-_KEPT]


def serve(port: int) -> None:
    """Serve until standard input is closed: the parent has ended."""
    import uvicorn

    config = uvicorn.Config("prefect.server.api.server:create_app", factory=True, host="127.0.0.1", port=port, log_level="error")
    server = uvicorn.Server(config)

    def watch() -> None:
        while os.read(0, 1 << 10):  # sys.stdin has a lock, which an interpreter that ends by itself would die of
            pass
        server.should_exit = True
        time.sleep(5)  # what it has in hand is finished
        os._exit(0)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()
    server.run()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
