"""What rows of the ledger say as a function of the manifest: every column of a commitment's row.

The run id is the manifest's own; a commitment's row follows from manifest, name and root. Whoever appends
rows takes them from here (tasks/), and storage/fsck.py compares what is there.
"""

from protocol.encoding import canonical_json
from protocol.manifest import RunManifest
from protocol.statement import PUBLIC_BASE, Name, commitment_layout
from storage.models import NONE, CommitmentRow

SPARE_OPENINGS = 4  # attempts that may die after their positions were drawn, per commitment, unless run.yaml says otherwise


def budget_of(manifest: RunManifest, name: Name) -> int | None:
    """How many openings a commitment has; None is unlimited."""
    public = name.kind in PUBLIC_BASE and manifest.base_visibility == "public"
    return None if public else manifest.budgets[name.kind]


def commitment_row(manifest: RunManifest, run_id: str, name: Name, root: bytes) -> CommitmentRow:
    """What the ledger says about a commitment."""
    layout = commitment_layout(manifest, name)
    geometry = canonical_json(layout.geometry()).decode()
    identity = layout.identity(root)
    window = name.window if name.window >= 0 else NONE
    return CommitmentRow(run_id, name.base, window, name.layer, identity, root.hex(), geometry, budget_of(manifest, name))
