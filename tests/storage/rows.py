"""Rows for ledger tests: one of each table, consistent with one another."""

import hashlib

from storage.models import NONE, WHOLE_RUN, CommitmentRow, EventRow, ProofRow, Row, RunRow, StatementRow, VerdictRow


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


RUN = RunRow("run-1", digest('{"model":"tiny"}'), '{"model":"tiny"}')
COMMITMENT = CommitmentRow("run-1", "base", NONE, 0, digest("base"), digest("root"), '{"ell":64}', 3)
PUBLIC = CommitmentRow("run-1", "dataset", NONE, NONE, digest("data"), digest("root 2"), '{"ell":64}', None)
STATEMENT = StatementRow(digest("s0"), "run-1", "layer", 0, 0, NONE, '{"kind":"layer"}')
PROOF = ProofRow(digest("s0"), digest("object"), 1000, "cpu", 1.5, '{"queries":104}')
VERDICT = VerdictRow("pass-1", "run-1", digest("s0"), "offline", True, "")
WHOLE = VerdictRow("pass-1", "run-1", WHOLE_RUN, "offline", False, "chain: window 1 is missing")
EVENT = EventRow("run-1", "overflow", 1, '{"step":3,"tensor":"q","value":40000}')
ROWS: list[Row] = [RUN, COMMITMENT, PUBLIC, STATEMENT, PROOF, VERDICT, WHOLE, EVENT]
