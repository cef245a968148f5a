"""Buckets for tests: moto inside the process, or a real gateway if `make gateway-test` started one."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from botocore.config import Config
from moto import mock_aws

from storage.s3_client import s3_session

BUCKETS = ("moto", pytest.param("gateway", marks=pytest.mark.gateway))
"""Parameters of a fixture that needs a bucket."""


@contextmanager
def s3_server(kind: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The query part of URLs on that server: "" or "?endpoint=…"."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    if kind == "gateway":
        yield f"?endpoint={os.environ['VERILORA_TEST_GATEWAY']}"
        return
    for name, value in (("ACCESS_KEY_ID", "testing"), ("SECRET_ACCESS_KEY", "testing-secret"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    with mock_aws():
        yield ""


def admin(query: str) -> Any:
    """A plain client, for what tests do behind the store's back."""
    endpoint = query.partition("=")[2] or None
    return s3_session().client("s3", endpoint_url=endpoint, config=Config(request_checksum_calculation="when_required"))


def new_bucket(query: str, **options: object) -> str:
    """A fresh, empty bucket."""
    name = f"test-{uuid.uuid4().hex}"
    admin(query).create_bucket(Bucket=name, **options)
    return name
