"""One honest toy run for the whole session, whichever tests want it."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.build_run import Built


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> "Built":
    from tests.cli.build_run import build_run  # loads the prover, which most tests do without

    folder: Path = tmp_path_factory.mktemp("toy-run")
    return build_run(folder)
