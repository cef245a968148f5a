"""Generated requests against the OpenAPI description (schemathesis): no 5xx, and every answer is of a form that it describes.

A few hundred cases in each CI run, more than 10,000 with `make api-cases`; CASES is shared out among addresses, of which some
have fewer requests that differ.
"""

import contextlib
import os
from collections import Counter
from itertools import cycle

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import CHECKS

from api.app import create_app, open_services
from tests.api.pretend import Pretended

CASES = int(os.environ.get("CASES", "240"))
RUN = "8c1f0e77a2d4b690"


@pytest.mark.parametrize("mode", [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE], ids=["valid", "invalid"])
def test_generated_requests_get_described_answers(pretended: Pretended, mode: schemathesis.GenerationMode) -> None:
    services = open_services(pretended.ledger_url, pretended.objects_url)
    lines = services.rows.tasks(RUN, limit=3)
    known = {  # identifiers that exist, so that cases reach beyond a 404
        "run_id": cycle([RUN, "27d0b1c95e3fa846"]), "tile": cycle(["0/000", "0/000.p/1"]), "position": cycle([0, 5, 77]),
        "statement_id": cycle([line.statement_id for line in lines]), "digest": cycle([line.object_digest for line in lines]),
    }
    schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(services))
    operations = [found.ok() for found in schema.get_all_operations()]
    checks = [check for check in CHECKS.get_all() if check.__name__ != "positive_data_acceptance"]  # a cursor is an opaque word
    statuses: Counter[int] = Counter()
    tried = 0
    for operation in operations:

        @settings(
            max_examples=-(-CASES // (2 * len(operations))), deadline=None, database=None, derandomize=True, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(operation.as_strategy(generation_mode=mode))
        def ask(case: schemathesis.Case) -> None:
            nonlocal tried
            tried += 1
            if tried % 2 and mode is schemathesis.GenerationMode.POSITIVE:
                case.path_parameters |= {name: next(known[name]) for name in case.path_parameters or () if name in known}
            answer = case.call_and_validate(checks=checks)
            statuses[answer.status_code] += 1

        with contextlib.suppress(Unsatisfiable):  # an address without parameters has no invalid requests
            ask()
    print(f"{tried} cases, answers by status: {dict(statuses)}")
    assert len(operations) > 12 and not [status for status in statuses if status >= 500 ]
    if mode is schemathesis.GenerationMode.POSITIVE:
        assert statuses[200] > CASES // 8
