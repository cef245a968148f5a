"""The JSON of the API and of `verilora ledger query --json`: one description of each document, which OpenAPI publishes.

Times are RFC 3339 in UTC, ids and digests 64 lower-case hexadecimal digits, −1 is a window, layer or part that does not apply.
A list is a page: `items`, and `next`, which the parameter `after` takes to go on (null at the end). Fields are added, never
renamed. What a row says is a claim of the ledger's owner, a verdict is a claim of its verifier.
"""

from datetime import datetime
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from storage.query import RunSummary

Item = TypeVar("Item")


class Document(BaseModel):
    """Base of all documents."""

    model_config = ConfigDict(frozen=True)


class Page(Document, Generic[Item]):
    """A part of a list."""

    items: list[Item]
    next: str | None = Field(description="Cursor of the following page; null at the end.")


class RunItem(Document):
    """One run in a list."""

    run: str
    created: datetime
    manifest_sha256: str
    model: str = Field(description="The name in the manifest; whoever ran it chose it.")
    dataset: str = Field(description="Commitment id of the dataset.")
    state: str = Field(description="training, proving, finished or overflow; derived from the rows.")
    statements: int
    proofs: int
    accepted_verdicts: int = Field(description="Verdicts on the whole run that say accepted, by anybody.")
    verifiers: list[str] = Field(description="Who appended a verdict on the whole run.")

    @classmethod
    def of(cls, run: RunSummary) -> "RunItem":
        return cls(
            run=run.run_id, created=run.created, manifest_sha256=run.manifest_digest, model=run.model, dataset=run.dataset_id,
            state=run.state, statements=run.statements, proofs=run.proofs, accepted_verdicts=run.accepted, verifiers=list(run.verifiers),
        )


class LossItem(Document):
    """Mean token loss of a step in nats, as the statement of its head task claims it."""

    step: int
    loss: float
    statement: str


class EventItem(Document):
    """Something that happened to a run; `detail` as recorded."""

    kind: str
    window: int
    created: datetime | None
    detail: str


class VerificationItem(Document):
    """One verification pass: a claim by whoever appended it."""

    verification: str
    verifier: str = Field(description="As the verifier calls itself; nobody checks the name.")
    accepted: bool
    reason: str
    created: datetime | None
    tasks_accepted: int
    tasks_rejected: int
    signed_by: str | None = Field(description="Ed25519 public key whose signature this server checked; null if unsigned or wrong.")
    receipt: str | None = Field(description="The receipt as appended (a DSSE envelope).")


class RunDocument(RunItem):
    """One run. `manifest` is what the recorded text parses to; its exact bytes are at …/manifest."""

    manifest: dict[str, Any]
    counts: dict[str, int]
    loss: list[LossItem] = Field(description="Claimed by statements; verify the run to certify it.")
    events: list[EventItem]
    verifications: list[VerificationItem]


class TaskItem(Document):
    """A statement and its proof; the proof's fields are null as long as none is recorded."""

    statement: str
    kind: str
    window: int
    layer: int
    part: int
    proof: str | None
    bytes: int | None
    prover: str | None
    seconds: float | None
    proved: datetime | None


class CommitmentItem(Document):
    """A commitment, its budget of openings (null: unlimited) and how many are spent, in all runs that share it."""

    name: str
    window: int
    layer: int
    commitment: str
    root: str
    budget: int | None
    openings: int


class VerdictItem(Document):
    """One verdict row; `subject` is a statement id, or "run"."""

    verification: str
    subject: str
    verifier: str
    accepted: bool
    reason: str
    created: datetime | None


class OpeningItem(Document):
    """One opening that an attempt at a statement spent."""

    commitment: str
    slot: int
    attempt: str


class StatementDocument(TaskItem):
    """One statement with its content, exactly as it was hashed into the transcript."""

    run: str
    task: str
    created: datetime | None
    content: str
    soundness: dict[str, Any] | None = Field(description="Recorded with the proof; a verifier computes its own.")
    openings: list[OpeningItem]
    verdicts: list[VerdictItem]
    log_position: int | None


class LogDocument(Document):
    """The log: entries in the ledger, and the newest checkpoint."""

    size: int
    checkpoint_size: int | None
    checkpoint: str | None = Field(description="The signed note.")


class CheckpointItem(Document):
    """A signed tree head."""

    size: int
    note: str


class EntryDocument(Document):
    """One entry: the row as it is now, its leaf hash, and the inclusion proof under the checkpoint of `size` entries."""

    position: int
    row_table: str
    row_key: str
    leaf: str = Field(description="Canonical JSON of the row as it is now; the leaf hash is SHA-256(0x00 ‖ leaf).")
    leaf_hash: str = Field(description="As recorded when the row was appended.")
    changed: bool = Field(description="Whether the row as it is now hashes to something else.")
    size: int = Field(description="Of the tree of the inclusion proof; 0 if no checkpoint covers the entry yet.")
    inclusion_proof: list[str] = Field(description="Sibling hashes from the leaf upwards (RFC 6962, section 2.1.1).")


class ConsistencyDocument(Document):
    """Consistency proof between two sizes (RFC 6962, section 2.1.2)."""

    first: int
    second: int
    consistency_proof: list[str]


class Problem(Document):
    """What went wrong (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
