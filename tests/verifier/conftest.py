"""The honest toy run (tests/conftest.py) as a bundle, and a judge of bundles."""

from pathlib import Path

import pytest

from tests.cli.build_run import Built
from tests.support.bundles import Judge, Source, source_of


@pytest.fixture(scope="module")
def source(built: Built) -> Source:
    return source_of(built)


@pytest.fixture(scope="module")
def honest(source: Source) -> bytes:
    return source.bytes()


@pytest.fixture
def judge(tmp_path: Path) -> Judge:
    return Judge(tmp_path)
