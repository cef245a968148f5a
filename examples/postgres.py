"""A PostgreSQL server of one's own: Debian's binaries, a data folder, a Unix socket in a folder that nobody else may enter.

PostgreSQL refuses to run as root, so root starts it as `postgres` or `nobody`. The server is this process's child; `kill` ends it as
a power cut would, and `start` brings it back with its own recovery. Used by examples/cluster.py and tests/support/postgres.py.
"""

import os
import pwd
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psycopg

SUPERUSER = "super"
_START_SECONDS = 60.0


class PostgresError(Exception):
    """The server could not be started: what it said."""


class Postgres:
    """One server; `folder` is empty and its path short, because a socket's path has at most 107 characters."""

    def __init__(self, folder: Path, programs: Path, rules: str = "local all all trust\n", **settings: str) -> None:
        self.folder, self._programs, self._rules, self._settings = folder, programs, rules, settings
        self._account = _account()
        self.process: subprocess.Popen[bytes] | None = None

    def url(self, database: str, user: str = SUPERUSER, password: str | None = None, driver: str = "psycopg") -> str:
        """A database URL of SQLAlchemy."""
        secret = f":{password}" if password else ""
        return f"postgresql+{driver}://{user}{secret}@/{database}?host={self.folder}"

    def connect(self, database: str = "postgres", user: str = SUPERUSER) -> "psycopg.Connection[tuple[object, ...]]":
        """A client of its own; each statement is its own transaction."""
        return psycopg.connect(host=str(self.folder), dbname=database, user=user, autocommit=True)

    def create(self) -> None:
        """Make the data folder."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._account:
            os.chown(self.folder, self._account.pw_uid, self._account.pw_gid)
        data = self.folder / "data"
        command = ["-D", str(data), "-U", SUPERUSER, "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C"]
        done = self._child("initdb", *command)
        if done.wait():
            raise PostgresError(f"initdb failed: {self._said()}")
        (data / "pg_hba.conf").write_text(self._rules)

    def start(self) -> None:
        """Start it, or start it again; back when it lets clients in."""
        options = {"listen_addresses": "", "unix_socket_directories": str(self.folder), **self._settings}
        flags = [text for name, value in options.items() for text in ("-c", f"{name}={value}")]
        end = time.monotonic() + _START_SECONDS
        self.process = self._child("postgres", "-D", str(self.folder / "data"), *flags)
        while True:
            try:
                self.connect().close()
                return
            except psycopg.OperationalError:
                if self.process.poll() is not None or time.monotonic() > end:
                    raise PostgresError(f"PostgreSQL did not start: {self._said()}") from None
                time.sleep(0.05)

    def stop(self) -> None:
        """Shut it down; clients are disconnected."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End it at once, without writing anything more than it has written."""
        self._end(signal.SIGQUIT)

    def _end(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None

    def _child(self, program: str, *arguments: str) -> "subprocess.Popen[bytes]":
        account = self._account
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [self._programs / program, *arguments], user=account.pw_uid if account else None,
                group=account.pw_gid if account else None, extra_groups=[] if account else None, cwd=self.folder,
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"}, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )

    def _said(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-2000:]


def binaries() -> Path | None:
    """The folder of initdb and postgres, of the newest version that is installed."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    versions = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return max(versions, key=lambda path: float(path.parent.name), default=None)


def _account() -> pwd.struct_passwd | None:
    if os.getuid():
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise PostgresError("PostgreSQL does not run as root, and there is neither a user postgres nor nobody")
