"""How many openings each commitment of a run gets, and how often those of the start are copied under fresh blinding.

    budget = tasks that open a commitment of this kind, at most + spare attempts ≤ the openings that keep it hidden under a profile

Called by tasks/estimate.py for every profile.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache

from protocol.manifest import RunManifest
from protocol.statement import PUBLIC_BASE, opening_counts
from storage.derive import SPARE_OPENINGS


@dataclass(frozen=True)
class OwnedBudget:
    """A dataset committed before the run: the openings that its blinding allows, and how many are left."""

    openings: int
    left: int


Counts = Callable[[int], Mapping[str, int]]


def counts_of(manifest: RunManifest) -> Counts:
    """How often a run's commitments are opened if it rotates them every so many windows: found once, since a run may have many tasks."""
    return cache(lambda windows: opening_counts(replace(manifest, rotation_windows=windows)))


def with_budgets(
    manifest: RunManifest, owned: OwnedBudget | None = None, spare: int = SPARE_OPENINGS, counts: Counts | None = None
) -> RunManifest:
    """The manifest with openings for every task and the spare attempts; the owner's dataset keeps what it has, and a public base
    model, whose openings are unlimited, has a 1 that nobody reads."""
    counts = counts or counts_of(manifest)
    budgets = {kind: n + spare for kind, n in counts(manifest.rotation_windows).items()}
    if manifest.base_visibility == "public":
        budgets |= dict.fromkeys(PUBLIC_BASE, 1)
    return replace(manifest, budgets=budgets | ({"dataset": owned.openings} if owned else {}))


def with_rotation(
    manifest: RunManifest, limit: int, owned: OwnedBudget | None = None, spare: int = SPARE_OPENINGS, counts: Counts | None = None
) -> RunManifest | None:
    """Budgets of at most `limit` openings, by as few rotations as that takes; None if even one every window is too few."""
    counts = counts or counts_of(manifest)

    def fitting(windows: int) -> RunManifest | None:
        found = with_budgets(replace(manifest, rotation_windows=windows), None, spare, counts)
        if owned and found.budgets["dataset"] > owned.left:
            return None
        found = with_budgets(found, owned, spare, counts)
        return found if max(found.budgets.values()) <= limit else None

    unrotated = fitting(0)
    if unrotated is not None:
        return unrotated
    low, high = 0, len(manifest.windows()) - 1  # the more windows one copy serves, the more openings it needs
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fitting(middle) else (low, middle - 1)
    return fitting(low) if low else None


def too_few_openings(manifest: RunManifest, owned: OwnedBudget | None, limit: int, spare: int) -> str:
    """What to say where no rotation is enough."""
    needed = with_budgets(replace(manifest, rotation_windows=1), None, spare).budgets
    if owned and owned.left < needed["dataset"]:
        return (
            f"dataset_opening: {owned.left} of its {owned.openings} openings are left, and a run opens the dataset at least "
            f"{needed['dataset']} times before a copy takes over ({spare} of them in reserve); valid is a dataset committed "
            f"with --openings {needed['dataset']} or more"
        )
    return (
        f"a commitment of this run would be opened {max(needed.values())} times, {spare} of them in reserve (audit.spare_openings); at "
        f"most {limit} openings keep it hidden at 100 bits"
    )
