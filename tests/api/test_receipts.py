"""An auditor's receipt beside verdicts that it is not about: whoever writes rows gets no signature shown for them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from fastapi.testclient import TestClient

from api.app import create_app, open_services
from storage.ledger import Ledger, open_ledger
from storage.models import WHOLE_RUN, VerdictRow
from tests.api.pretend import Shape, make, receipt
from verifier.receipt import receipt_id

RUN, REJECTED, STARTED = "8c1f0e77a2d4b690", "27d0b1c95e3fa846", "f3a9c64b1180de25"
OTHER = Shape(REJECTED, layers=4, steps=10, window_steps=2, model="tiny-llama-long")  # as tests/api/pretend.py makes it


def with_rows(folder: Path, write: Callable[[Ledger, VerdictRow], None]) -> TestClient:
    """The service over a pretended ledger to which `write` appended, given the row with the first run's receipt."""
    made = make(folder)
    book = open_ledger(made.ledger_url)
    [signed] = [replace(row, created=None) for row in book.record(RUN).verdicts if row.signature]
    write(book, signed)
    book.close()
    return TestClient(create_app(open_services(made.ledger_url, made.objects_url)))


def signers(client: TestClient, run: str) -> list[bool]:
    return [item["signed_by"] is not None for item in client.get(f"/api/v1/runs/{run}").json()["verifications"]]


def test_a_receipt_on_another_run(tmp_path: Path) -> None:
    client = with_rows(tmp_path, lambda book, signed: [book.append(replace(signed, run_id=run)) for run in (REJECTED, STARTED)] and None)
    assert sorted(signers(client, REJECTED)) == [False, True] and signers(client, STARTED) == [False]


def test_a_receipt_appended_again_under_other_names(tmp_path: Path) -> None:
    client = with_rows(tmp_path, lambda book, signed: [book.append(replace(signed, verification=f"{n}")) for n in range(3)] and None)
    assert sum(signers(client, RUN)) == 1


def test_a_row_that_says_more_than_its_receipt(tmp_path: Path) -> None:
    """Each under its receipt's own id, under which no row stands yet."""
    changes: list[dict[str, object]] = [
        {"accepted": True, "reason": ""}, {"verifier": "Example Press"}, {"reason": "the auditor's own mistake"}, {}]

    def write(book: Ledger, _: VerdictRow) -> None:
        judged = [replace(row, created=None) for row in book.record(REJECTED).verdicts]
        whole = next(row for row in judged if row.subject == WHOLE_RUN)
        for change in changes:
            signed = receipt(OTHER, [*(row for row in judged if row != whole), whole])
            book.append(replace(whole, verification=receipt_id(signed.encode()), signature=signed, **change))

    found = with_rows(tmp_path, write).get(f"/api/v1/runs/{REJECTED}").json()["verifications"]
    said = [(item["accepted"], item["verifier"], item["reason"]) for item in found if item["signed_by"]]
    assert len(found) == 5 and len(said) == 2 and len(set(said)) == 1 and said[0][:2] == (False, "Second Audit")


def test_a_task_that_the_receipt_does_not_name(tmp_path: Path) -> None:
    """A statement of the run that was not judged, put under the verification that the receipt belongs to."""
    seen: dict[str, str] = {}

    def write(book: Ledger, signed: VerdictRow) -> None:
        record = book.record(RUN)
        seen["judged"] = next(row.subject for row in record.verdicts if row.subject != WHOLE_RUN)
        seen["added"] = record.statements[0].statement_id[::-1]
        book.append(replace(record.statements[0], statement_id=seen["added"], kind="audit", created=None))
        book.append(replace(signed, subject=seen["added"], signature=None))

    client = with_rows(tmp_path, write)
    assert client.get(f"/statements/{seen['judged']}").text.count("signature valid") == 1
    assert client.get(f"/statements/{seen['added']}").text.count("signature valid") == 0
