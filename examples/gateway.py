"""A real S3 server: Ceph's RADOS gateway on loopback, with one monitor and one OSD that keeps everything in memory.

    python -m examples.gateway COMMAND…      starts it, runs COMMAND with the variables below, stops it

    VERILORA_TEST_GATEWAY    the endpoint, http://127.0.0.1:PORT
    AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY      an account made for this run
    AWS_DEFAULT_REGION       default

Needs radosgw, ceph-mon, ceph-osd and ceph-common (`make gateway-test` installs them). Nothing outlives the command: data, logs
and sockets lie in a temporary folder, and the daemons are this process's children. If something does not start, the end of
its log is printed. Used by examples/cluster.py and `make gateway-test`.
"""

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from examples.services import answers, free_port

PROGRAMS = ("ceph-mon", "ceph-osd", "ceph", "ceph-authtool", "monmaptool", "radosgw", "radosgw-admin")
START_SECONDS = 120


class GatewayError(Exception):
    """The gateway could not be started."""


class Gateway:
    """Monitor, OSD and gateway as child processes; used by `running`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.access_key, self.secret_key = secrets.token_hex(10), secrets.token_hex(20)
        self._children: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._config = folder / "ceph.conf"

    def start(self) -> None:
        """Bring everything up; GatewayError shows why not."""
        monitor = f"[v2:127.0.0.1:{free_port()},v1:127.0.0.1:{free_port()}]"
        cluster, osd = str(uuid.uuid4()), str(uuid.uuid4())
        self._config.write_text(self._settings(cluster, monitor))
        for name in ("mon", "osd"):
            (self.folder / name).mkdir()
        monmap = str(self.folder / "monmap")
        self._once("monmaptool", "--create", "--clobber", "--fsid", cluster, "--addv", "a", monitor, monmap)
        for entity, osd_rights in (("mon.", ""), ("osd.0", "allow *"), ("client.admin", "allow *"), ("client.rgw", "allow *")):
            rights = ["--cap", "mon", "allow *", *(["--cap", "osd", osd_rights] if osd_rights else [])]
            create = ["--create-keyring"] if entity == "mon." else []
            self._once("ceph-authtool", *create, str(self.folder / "keyring"), "--gen-key", "-n", entity, *rights)
        self._once("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", str(self.folder / "keyring"))
        self._daemon("ceph-mon", "-f", "-i", "a")
        self._ceph("osd", "new", osd)
        self._once("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        self._daemon("ceph-osd", "-f", "-i", "0")
        self._until("the OSD is up", lambda: json.loads(self._ceph("osd", "stat", "-f", "json"))["num_up_osds"] == 1)
        self._daemon("radosgw", "-d", "-n", "client.rgw")
        self._until("the gateway answers", lambda: answers(self.endpoint))
        self.account("verilora", self.access_key, self.secret_key)

    def account(self, name: str, access_key: str, secret_key: str) -> None:
        """Make a user, who owns nothing yet."""
        self._once(
            "radosgw-admin", "-n", "client.rgw", "user", "create", "--uid", name, "--display-name", name,
            "--access-key", access_key, "--secret", secret_key,
        )

    def client(self) -> Any:
        """A plain S3 client of the account that owns everything."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3", endpoint_url=self.endpoint, aws_access_key_id=self.access_key, aws_secret_access_key=self.secret_key,
            region_name="default", config=Config(request_checksum_calculation="when_required"),
        )

    def stop(self) -> None:
        """End the daemons, the last one first."""
        for _, child in reversed(self._children):
            child.terminate()
        for _, child in reversed(self._children):
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def environment(self) -> dict[str, str]:
        """What a test needs to find it."""
        return {
            "VERILORA_TEST_GATEWAY": self.endpoint, "AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "default",
        }

    def _settings(self, cluster: str, monitor: str) -> str:
        return f"""
[global]
fsid = {cluster}
mon host = {monitor}
public addr = 127.0.0.1
keyring = {self.folder}/keyring
run dir = {self.folder}
admin socket = {self.folder}/$name.asok
log file = {self.folder}/$name.log
crash dir = {self.folder}
mon data = {self.folder}/mon
mon allow pool size one = true
mon max pg per osd = 2000
osd data = {self.folder}/osd
osd objectstore = memstore
memstore device bytes = 2147483648
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
rgw data = {self.folder}/rgw
rgw frontends = beast endpoint=127.0.0.1:{self.port}
rgw thread pool size = 32
rgw crypt require ssl = false
"""

    def _ceph(self, *arguments: str) -> str:
        return self._once("ceph", "--connect-timeout", "30", *arguments)

    def _once(self, program: str, *arguments: str) -> str:
        command = [program, "-c", str(self._config), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=START_SECONDS, check=False)
        if done.returncode:
            raise GatewayError(f"{' '.join(command)} failed with {done.returncode}: {done.stderr[-2000:]}{self._logs()}")
        return done.stdout

    def _daemon(self, program: str, *arguments: str) -> None:
        with (self.folder / f"{program}.out").open("wb") as out:
            child = subprocess.Popen([program, "-c", str(self._config), *arguments], stdout=out, stderr=out, start_new_session=True)
        self._children.append((program, child))

    def _until(self, what: str, ready: object) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not ready():  # type: ignore[operator]
            for program, child in self._children:
                if child.poll() is not None:
                    raise GatewayError(f"{program} ended with {child.returncode} before {what}{self._logs()}")
            if time.monotonic() > deadline:
                raise GatewayError(f"{START_SECONDS} s passed before {what}{self._logs()}")
            time.sleep(0.2)

    def _logs(self) -> str:
        parts = []
        for path in sorted([*self.folder.glob("*.out"), *self.folder.glob("*.log")]):
            parts.append(f"\n--- {path.name}\n{path.read_text(errors='replace')[-3000:]}")
        return "".join(parts)


def missing() -> list[str]:
    """Programs that are not installed."""
    return [program for program in PROGRAMS if shutil.which(program) is None]


@contextlib.contextmanager
def running() -> Iterator[Gateway]:
    """A gateway for as long as the block lasts."""
    if absent := missing():
        raise GatewayError(f"{', '.join(absent)} not found: apt-get install radosgw ceph-mon ceph-osd ceph-common")
    with tempfile.TemporaryDirectory(prefix="gateway-") as folder:
        gateway = Gateway(Path(folder))
        try:
            gateway.start()
            yield gateway
        finally:
            gateway.stop()


def main(command: list[str]) -> int:
    """Run one command beside a gateway; its exit code."""
    if not command:
        print("usage: python -m examples.gateway COMMAND…", file=sys.stderr)
        return 2
    try:
        with running() as gateway:
            print(f"gateway: {gateway.endpoint}", flush=True)
            return subprocess.run(command, env=os.environ | gateway.environment(), check=False).returncode
    except GatewayError as error:
        print(f"gateway: {error}", file=sys.stderr)
        return 3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
