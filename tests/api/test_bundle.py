"""Downloads of bundles: whoever reads slowly, or not at all, holds a file on the server's disk; only so many."""

import gc

import pytest

from api.app import open_services
from api.bundle import MAX_FILES, show_bundle
from api.http import Unavailable
from api.services import Services
from tests.api.pretend import Pretended

RUN = "8c1f0e77a2d4b690"


@pytest.fixture(scope="module")
def services(pretended: Pretended) -> Services:
    return open_services(pretended.ledger_url, pretended.objects_url)


def test_files_of_slow_clients_are_few(services: Services) -> None:
    held = [show_bundle(services, RUN) for _ in range(MAX_FILES)]
    with pytest.raises(Unavailable, match="try again"):
        show_bundle(services, RUN)
    held.pop()  # a client that left before the first byte
    gc.collect()
    held.append(show_bundle(services, RUN))
    held.clear()
    gc.collect()
    assert len([show_bundle(services, RUN) for _ in range(MAX_FILES)]) == MAX_FILES


def test_a_failed_bundle_leaves_no_file(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space")

    gc.collect()
    monkeypatch.setattr("api.bundle.write_bundle", fail)
    for _ in range(2 * MAX_FILES):
        with pytest.raises(OSError, match="no space"):
            show_bundle(services, RUN)
