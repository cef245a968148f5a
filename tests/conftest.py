"""One honest toy run for the whole session, whichever tests want it; and no GPU of this machine, unless it is asked for."""

from contextlib import suppress
from ctypes.util import find_library
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.build_run import Built


def pytest_configure() -> None:
    if find_library("cuda"):  # a driver, which a process has instead of the card once it has found it
        from tests.support import card
        from tests.support.device import REAL

        with suppress(card.NoCard):
            if not REAL:
                card.cupy()


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> "Built":
    from tests.cli.build_run import build_run  # loads the prover, which most tests do without

    folder: Path = tmp_path_factory.mktemp("toy-run")
    return build_run(folder)
