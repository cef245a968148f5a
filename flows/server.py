"""The embedded Prefect server: a child process on a free port of loopback, which ends when its parent does, however that happens.

    parent  with embedded(): sets PREFECT_API_URL and holds one end of a pipe        child  python -m flows.server PORT: serves until
                                                                                            the pipe is closed

Prefect's own temporary server survives a parent that is killed. Where PREFECT_API_URL names a server, that one is used. Called by
`verilora run` before Prefect is imported, because Prefect reads its environment then.
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
from collections.abc import Iterator

_STARTUP_SECONDS = 180.0  # a first start migrates its database: 14-24 s on 2 idle cores
_ATTEMPTS = 3  # a port that was free may be taken meanwhile
_ENVIRONMENT = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}


class ServerError(Exception):
    """The embedded server does not start: what it said."""


@contextlib.contextmanager
def embedded() -> Iterator[None]:
    """A Prefect server for as long as the block runs; nothing if the environment names one."""
    if os.environ.get("PREFECT_API_URL"):
        yield
        return
    process, port = _start()
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
    try:
        yield
    finally:
        del os.environ["PREFECT_API_URL"]
        _stop(process)


def _start() -> "tuple[subprocess.Popen[bytes], int]":
    said = b""
    for _ in range(_ATTEMPTS):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.server", str(port)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            env=os.environ | _ENVIRONMENT, start_new_session=True,  # Ctrl-C is the parent's business
        )
        if _answers(process, port):
            _drain(process)
            return process, port
        said = process.stderr.read() if process.stderr and process.poll() is not None else b"no answer"
        _stop(process)
    last = said.decode(errors="replace").strip().splitlines()[-1:]
    raise ServerError(f"the embedded Prefect server did not start ({''.join(last)[:300]}): see --debug, or set PREFECT_API_URL to a server")


def _answers(process: "subprocess.Popen[bytes]", port: int) -> bool:
    end = time.monotonic() + _STARTUP_SECONDS
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError, urllib.error.URLError), opener.open(f"http://127.0.0.1:{port}/api/health", timeout=5) as answer:
            if answer.status == 200:
                return True
        time.sleep(0.1)
    return False


def _drain(process: "subprocess.Popen[bytes]") -> None:
    """Nobody reads what the server says from here on, and it must not wait for a reader."""

    def read() -> None:
        while process.stderr and process.stderr.read(1 << 16):
            pass

    threading.Thread(target=read, name="prefect-server-stderr", daemon=True).start()


def _stop(process: "subprocess.Popen[bytes]") -> None:
    if process.stdin:
        process.stdin.close()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def serve(port: int) -> None:
    """Serve until standard input is closed: the parent has ended."""
    import uvicorn

    config = uvicorn.Config("prefect.server.api.server:create_app", factory=True, host="127.0.0.1", port=port, log_level="error")
    server = uvicorn.Server(config)

    def watch() -> None:
        sys.stdin.buffer.read()
        server.should_exit = True
        time.sleep(5)  # what it has in hand is finished
        os._exit(0)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()
    server.run()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
