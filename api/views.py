"""What pages show, computed from rows: the window × layer grid, the loss curve, the chain of one window, soundness by source.

Plain data for templates; no HTML, no verdicts of its own. Called by api/pages.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from api.claims import LossPoint, json_object, layers, named_commitments, parts, soundness, task_name, windows, writes
from api.services import Services
from storage.browse import CommitmentLine, ProofGroup, TaskLine
from storage.models import StatementRow

GRID_CELLS = 700  # on one page
GRID_ROWS = 40
CURVE_POINTS = 600
WINDOW_KINDS = ("x", "dx", "loss", "adapter", "gradient", "state", "delivered")
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 720.0, 220.0, 56.0, 32.0, 12.0


@dataclass(frozen=True)
class Cell:
    """One task in the grid, or all parts of one; `state` names what is recorded: proof, accepted, rejected (by verdict rows), stated,
    absent. `href` is the page about it, "" for nothing recorded."""

    task: str
    href: str
    state: str
    text: str
    mark: str


@dataclass(frozen=True)
class Grid:
    """Rows of windows; `groups` are (heading, columns, whether each has its own heading) and `heads` the second line of headings."""

    groups: Sequence[tuple[str, int, bool]]
    heads: Sequence[str]
    rows: Sequence[tuple[int, Sequence[Cell]]]
    first: int
    count: int
    total: int


MARKS = {"accepted": "✓", "rejected": "×", "proof": "●", "stated": "○", "absent": "·"}


def cell(task: str, line: TaskLine | None, verdicts: tuple[int, int]) -> Cell:
    """What the ledger has about one task."""
    accepted, rejected = verdicts
    if line is None:
        return Cell(task, "", "absent", f"{task}: no statement recorded", MARKS["absent"])
    if line.object_digest is None:
        return Cell(task, f"/statements/{line.statement_id}", "stated", f"{task}: statement recorded, no proof", MARKS["stated"])
    state = "rejected" if rejected else "accepted" if accepted else "proof"
    said = f", verdicts appended: {accepted} accepted, {rejected} rejected" if accepted or rejected else ", no verdict appended"
    return Cell(task, f"/statements/{line.statement_id}", state, f"{task}: proof of {line.size:,} bytes recorded{said}", MARKS[state])


def cell_of_parts(task: str, count: int, found: Sequence[Cell], href: str) -> Cell:
    """What the ledger has about all `count` parts of a step: its worst."""
    states = [one.state for one in found]
    if not states:
        return cell(task, None, (0, 0))
    unproved = count - len(states) + states.count("stated")
    state = "rejected" if "rejected" in states else "stated" if unproved else "accepted" if set(states) == {"accepted"} else "proof"
    counts = ", ".join(f"{states.count(name)} {name}" for name in ("accepted", "rejected") if name in states)
    said = f", by verdicts appended {counts}" if counts else ""
    return Cell(task, href, state, f"{task}: proofs of {count - max(unproved, 0)} of {count} parts recorded{said}", MARKS[state])


def rank(kind: str) -> tuple[int, str]:
    """The order in which a window's tasks follow from one another."""
    return {"embed": 0, "layer": 1, "update": 2, "head": 4}.get(kind, 3), kind


def grid(found: Services, run_id: str, manifest: Mapping[str, Any], first: int) -> Grid:
    """The windows from `first` on that fit a page."""
    total = max(windows(manifest), found.rows.last_window(run_id) + 1)
    split = parts(manifest)
    tasks = (layers(manifest) + 2) * split + (layers(manifest) if split > 1 else 0) + 1
    count = max(1, min(GRID_ROWS, GRID_CELLS // tasks, total - first))
    lines = found.rows.tasks(run_id, windows=(first, first + count - 1))
    verdicts = found.rows.verdict_counts(run_id, [line.statement_id for line in lines])
    by_place: dict[tuple[int, str, int], list[TaskLine]] = {}
    for line in lines:
        by_place.setdefault((line.window, line.kind, line.layer), []).append(line)
    depth = max([layers(manifest), *(line.layer + 1 for line in lines if line.kind == "layer")])
    layered = ("layer", "update") if split > 1 else ("layer",)
    kinds = sorted({line.kind for line in lines} | {"embed", "head", *layered}, key=rank)
    groups = [(kind, depth if kind in layered else 1, kind in layered) for kind in kinds if depth or kind not in layered]
    keys = [(kind, number if own else -1) for kind, columns, own in groups for number in range(columns)]
    rows = []
    for window in range(first, min(first + count, total)):
        cells = []
        for kind, layer in keys:
            found_lines, name = by_place.get((window, kind, layer), []), task_name(kind, window, layer)
            each = [cell(task_name(kind, window, layer, x.part), x, verdicts.get(x.statement_id, (0, 0))) for x in found_lines]
            if split > 1 and kind in ("embed", "layer", "head"):
                cells.append(cell_of_parts(name, split, each, f"/runs/{quote(run_id)}/windows/{window}"))
            else:
                cells.append(each[-1] if each else cell(name, None, (0, 0)))
        rows.append((window, cells))
    return Grid(groups, [str(layer) if layer >= 0 else "" for _, layer in keys], rows, first, count, total)


def before_windows(found: Services, run_id: str) -> list[Cell]:
    """The tasks that belong to no window: ranges of what was committed at the start."""
    lines = found.rows.tasks(run_id, windows=(-1, -1), limit=200)
    verdicts = found.rows.verdict_counts(run_id, [line.statement_id for line in lines])
    return [cell(task_name(line.kind, line.window, line.layer, line.part), line, verdicts.get(line.statement_id, (0, 0))) for line in lines]


@dataclass(frozen=True)
class Curve:
    """A loss curve in SVG coordinates."""

    path: str
    dots: Sequence[tuple[str, str, str]]
    x_ticks: Sequence[tuple[str, str]]
    y_ticks: Sequence[tuple[str, str]]
    text: str


def curve(points: Sequence[LossPoint]) -> Curve | None:
    """The curve through these points; None without any."""
    if not points:
        return None
    low, high = min(p.loss for p in points), max(p.loss for p in points)
    step = _nice((high - low) / 4 or max(abs(high), 1.0) / 4)
    bottom, top = step * int(low // step), step * -int(-high // step)
    top = top if top > bottom else bottom + step
    first, last = points[0].step, max(points[-1].step, points[0].step + 1)

    def x(value: float) -> str:
        return f"{LEFT + (WIDTH - LEFT - 12) * (value - first) / (last - first):.1f}"

    def y(value: float) -> str:
        return f"{TOP + (HEIGHT - TOP - BOTTOM) * (top - value) / (top - bottom):.1f}"

    drawn = _thinned(points)
    lowest = min(points, key=lambda point: point.loss)
    across = max(1, round(_nice((last - first) / 8)))
    ticks_x = range(-(-first // across) * across, last + 1, across)
    number = round((top - bottom) / step)
    decimals = max(0, min(6, -_exponent(step)))
    return Curve(
        path="M" + " L".join(f"{x(p.step)} {y(p.loss)}" for p in drawn),
        dots=[(x(p.step), y(p.loss), f"step {p.step}: {p.loss:.6f}") for p in drawn] if len(drawn) <= 80 else [],
        x_ticks=[(x(tick), str(tick)) for tick in ticks_x],
        y_ticks=[(y(bottom + n * step), f"{bottom + n * step:.{decimals}f}") for n in range(number + 1)],
        text=(
            f"Mean token loss of {len(points)} steps: {points[0].loss:.4f} at step {points[0].step}, {points[-1].loss:.4f} at step "
            f"{points[-1].step}, lowest {lowest.loss:.4f} at step {lowest.step}."
        ),
    )


def _thinned(points: Sequence[LossPoint]) -> list[LossPoint]:
    """At most CURVE_POINTS points that keep the lowest and highest of each stretch."""
    if len(points) <= CURVE_POINTS:
        return list(points)
    size = -(-2 * len(points) // CURVE_POINTS)
    kept: dict[int, LossPoint] = {}
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        for point in (min(stretch, key=lambda p: p.loss), max(stretch, key=lambda p: p.loss)):
            kept[point.step] = point
    return [kept[step] for step in sorted(kept)]


def _exponent(value: float) -> int:
    return int(f"{value:e}".partition("e")[2])


def _nice(value: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    unit = 10.0 ** _exponent(value)
    return next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= value * 0.999)


@dataclass(frozen=True)
class Link:
    """One commitment of a window: its id, tasks that write and read it, openings; `fault` if statements and ledger differ."""

    name: str
    identity: str
    written: Sequence[tuple[str, str]]
    read: Sequence[tuple[str, str]]
    spent: int
    budget: int | None
    fault: str


def chain(found: Services, run_id: str, window: int) -> list[Link]:
    """Every commitment that a task of this window names, with who writes and reads it in this window and its neighbours."""
    near = found.rows.contents(run_id, windows=(max(window - 1, 0), window + 1)) if window >= 0 else []
    near += found.rows.contents(run_id, windows=(-1, -1))
    uses: dict[str, list[tuple[StatementRow, str, str]]] = {}
    shown: dict[str, None] = {}
    for row in near:
        for role, name, identity in named_commitments(json_object(row.content)):
            uses.setdefault(name, []).append((row, role, identity))
            if row.window == window:
                shown[name] = None
    lines: dict[str, CommitmentLine] = {}
    for number in (-1, window, window + 1) if window >= 0 else (-1,):
        for line in found.rows.commitments(run_id, window=number):
            lines[line.name if line.window < 0 else f"{line.name}@{line.window}"] = line
    return [_link(name, uses[name], lines.get(name)) for name in sorted(shown, key=_name_order)]


def _name_order(name: str) -> tuple[bool, int, str, list[int]]:
    """Those of the window first: activations, gradients, state, then what was there at the start."""
    kind, *rest = name.partition("@")[0].split("/")
    order = WINDOW_KINDS.index(kind) if kind in WINDOW_KINDS else 9
    return "@" not in name, order, kind, [int(n) if n.isdigit() and n.isascii() and len(n) < 9 else -1 for n in rest]


def _link(name: str, uses: Sequence[tuple[StatementRow, str, str]], line: CommitmentLine | None) -> Link:
    ids = {identity for _, _, identity in uses} | ({line.commitment_id} if line else set())
    tasks = [(task_name(row.kind, row.window, row.layer, row.part), row.statement_id, writes(row.kind, role)) for row, role, _ in uses]
    fault = "" if line and len(ids) == 1 else "not in the ledger" if line is None else "statements and ledger name different ids"
    return Link(
        name, line.commitment_id if line else min(ids), [(task, identity) for task, identity, out in tasks if out],
        [(task, identity) for task, identity, out in tasks if not out], line.spent if line else 0, line.budget if line else None, fault,
    )


@dataclass(frozen=True)
class KindOfProof:
    """All proofs of a kind: numbers, and the least soundness recorded for any of them by source, in bits."""

    kind: str
    proofs: int
    total_bytes: int
    largest: int
    seconds: float
    bits: int | None
    sources: Mapping[str, float]


def proof_kinds(groups: Sequence[ProofGroup]) -> tuple[list[KindOfProof], list[str]]:
    """By kind of task, and all sources that occur, in order."""
    kinds: dict[str, list[ProofGroup]] = {}
    for group in groups:
        kinds.setdefault(group.kind, []).append(group)
    out = []
    for kind, members in kinds.items():
        claims = [soundness(group.soundness) for group in members]
        read = [claim for claim in claims if claim is not None]
        names = sorted({name for claim in read for name in claim.centibits})
        out.append(KindOfProof(
            kind, sum(group.proofs for group in members), sum(int(group.total_bytes) for group in members),
            max(group.largest for group in members), sum(group.seconds for group in members),
            min(claim.bits for claim in read) if len(read) == len(claims) else None,
            {name: min(claim.centibits[name] for claim in read if name in claim.centibits) / 100 for name in names},
        ))
    return out, sorted({name for kind in out for name in kind.sources})


@dataclass(frozen=True)
class Budget:
    """Commitments of one kind: how many, openings of the most opened one, the least budget (None: unlimited)."""

    kind: str
    commitments: int
    most: int
    budget: int | None


def budgets(found: Services, run_id: str) -> list[Budget]:
    """Openings against budgets by kind of commitment."""
    out: dict[str, Budget] = {}
    for name, count, most, budget in found.rows.openings_by_name(run_id):
        kind = name.partition("/")[0]
        so_far = out.get(kind, Budget(kind, 0, 0, budget))
        least = min((n for n in (so_far.budget, budget) if n is not None), default=None)
        out[kind] = Budget(kind, so_far.commitments + count, max(so_far.most, most), least)
    return list(out.values())
