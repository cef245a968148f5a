"""A pretended ledger for the session, and a client of the service over it."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from api.app import create_app, open_services
from tests.api.pretend import Pretended, make


@pytest.fixture(scope="session")
def pretended(tmp_path_factory: pytest.TempPathFactory) -> Pretended:
    return make(tmp_path_factory.mktemp("pretended"))


@pytest.fixture
def client(pretended: Pretended) -> Iterator[TestClient]:
    yield TestClient(create_app(open_services(pretended.ledger_url, pretended.objects_url)), raise_server_exceptions=False)
