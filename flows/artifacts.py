"""What a flow run shows in Prefect's own pages: progress, the grid of proofs window by window, proof sizes, the loss curve.

    run-ID       Markdown, a new version after windows and proofs, at most every UPDATE_SECONDS: grid, table of sizes
    progress-ID  per cent of the statements that are proved
    proofs-ID    table: proofs by kind of task (at the end)
    loss-ID      image: proved loss of every step, where it is public (at the end)

Public facts only. Prefect's pages are a convenience: nothing there is evidence, and a failure to write it changes nothing. Called by
flows/finetune.py.
"""

import base64
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from prefect.artifacts import (
    create_image_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from flows.session import Progress, Session, Summary
from protocol.statement import Task
from storage.models import StatementRow
from tasks.context import RunContext

WIDTH, HEIGHT, MARGIN = 720, 240, 48
UPDATE_SECONDS = 30.0
ROWS = 60  # of a grid: windows that are complete share a row if there are more
log = logging.getLogger(__name__)


class Board:
    """The pages of one run, kept up to date while `session` says how it goes on."""

    def __init__(self, session: Session) -> None:
        self.context = session.context
        self._session, self._inner = session, session.on_progress
        self._lock, self._shown = threading.Lock(), float("-inf")
        self._bar: UUID | None = None
        session.on_progress = self._seen

    def finish(self, summary: Summary) -> None:
        """The last version of everything."""
        self._session.on_progress = self._inner
        _try(lambda: self._finish(summary))

    def _finish(self, summary: Summary) -> None:
        sizes, name = self._sizes(), self.context.run_id
        self._show(f"{summary.tasks} tasks, {summary.proof_bytes:,} proof bytes, at least {summary.soundness_bits} bits each", sizes)
        _try(lambda: create_table_artifact(by_kind(self.context, sizes), key=f"proofs-{name}", description="proofs by kind of task"))
        if curve := losses(self.context, self.context.stores.ledger.statements(name, "head")):
            _try(lambda: create_image_artifact(
                image_url(curve), key=f"loss-{name}", description="proved mean token loss per step, in nats"))

    def _seen(self, progress: Progress) -> None:
        self._inner(progress)
        with self._lock:
            if time.monotonic() - self._shown < UPDATE_SECONDS:
                return
            self._shown = time.monotonic()
        _try(lambda: self._show("The run goes on.", self._sizes()))

    def _sizes(self) -> dict[str, int]:
        return self.context.stores.ledger.proof_sizes(self.context.run_id)

    def _show(self, text: str, sizes: Mapping[str, int]) -> None:
        name, total = self.context.run_id, len(self.context.statements)
        page = f"# Run {name}\n\n{text}\n\n{len(sizes)} of {total} statements are proved.\n\n{proof_grid(self.context, sizes)}\n\n"
        page += _markdown(by_kind(self.context, sizes))
        _try(lambda: create_markdown_artifact(page, key=f"run-{name}", description="proofs by window and layer"))
        done = 100.0 * len(sizes) / total
        if self._bar is None:
            self._bar = _try(lambda: create_progress_artifact(done, key=f"progress-{name}", description="statements proved"))
        else:
            bar = self._bar
            _try(lambda: update_progress_artifact(bar, done))


def _try(write: Callable[[], Any]) -> Any:
    try:
        return write()
    except Exception as error:  # whatever the server's trouble is, the run itself is not concerned
        log.warning("no artifact: %s", type(error).__name__)
        return None


def column(task: Task) -> str:
    """Where a task stands in the grid; parts of a step stand together."""
    return f"{task.kind} {task.layer}" if task.layer >= 0 else task.kind


def proof_grid(context: RunContext, sizes: Mapping[str, int]) -> str:
    """A Markdown table, one row for each window: bytes of the proofs of each kind of task and layer, – where one is missing.

    With more than ROWS windows the complete ones before the first that is not share a row, and so do those behind the grid.
    """
    cells: dict[tuple[int, str], list[int | None]] = {}
    for identity, task in context.statements.items():
        cells.setdefault((task.window, column(task)), []).append(sizes.get(identity))
    columns = list(dict.fromkeys(column(t) for t in context.statements.values() if t.window >= 0))
    windows = [[cells.get((window, name), []) for name in columns] for window in range(len(context.manifest.windows()))]
    first = next((n for n, row in enumerate(windows) if any(None in cell for cell in row)), len(windows))
    start = min(first, max(len(windows) - ROWS, 0))
    lines = ["range proofs: " + ", ".join(map(_shown, cells[-1, "range"])), ""]
    lines += [f"| window | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    if start:
        lines.append(f"| 0 – {start - 1} | {' | '.join(f'{_sum(windows[:start], n):,}' for n in range(len(columns)))} |")
    for window, row in enumerate(windows[start:start + ROWS], start):
        lines.append(f"| {window} | {' | '.join(', '.join(map(_shown, cell)) for cell in row)} |")
    if start + ROWS < len(windows):
        rest = windows[start + ROWS:]
        lines.append(f"| {start + ROWS} – {len(windows) - 1} | {' | '.join(f'{_sum(rest, n):,}' for n in range(len(columns)))} |")
    return "\n".join(lines)


def _sum(rows: list[list[list[int | None]]], number: int) -> int:
    return sum(size or 0 for row in rows for size in row[number])


def _shown(size: int | None) -> str:
    return "–" if size is None else f"{size:,}"


def by_kind(context: RunContext, sizes: Mapping[str, int]) -> list[dict[str, Any]]:
    """For each kind of task: statements, proofs, and bytes of the proofs."""
    kinds: dict[str, list[int | None]] = {}
    for identity, task in context.statements.items():
        kinds.setdefault(task.kind, []).append(sizes.get(identity))
    table = []
    for kind, found in kinds.items():
        made = [size for size in found if size is not None]
        numbers = {"proofs": len(made), "mean bytes": sum(made) // max(len(made), 1), "largest": max(made, default=0), "bytes": sum(made)}
        table.append({"kind": kind, "statements": len(found), **numbers})
    return table


def _markdown(table: list[dict[str, Any]]) -> str:
    rows = [list(table[0]), ["---"] * len(table[0]), *([f"{v:,}" if isinstance(v, int) else v for v in row.values()] for row in table)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def losses(context: RunContext, heads: list[StatementRow]) -> list[float]:
    """Mean token loss of every step as the head statements publish it, in nats; empty unless all of it is public."""
    manifest = context.manifest
    if not manifest.publish_loss:
        return []
    totals = [total for row in sorted(heads, key=lambda row: row.window) for total in json.loads(row.content)["published"].get("loss", [])]
    unit = 2.0 ** -manifest.exponents["head/vocab.g"]
    if len(totals) != manifest.steps:
        return []
    return [total * unit / count for total, count in zip(totals, manifest.loss_tokens, strict=True)]


def image_url(curve: list[float]) -> str:
    """The curve as an SVG in a data: URL, so that no file has to be served."""
    low, high = min(curve), max(curve)
    across, down = (WIDTH - 2 * MARGIN) / max(len(curve) - 1, 1), (HEIGHT - 2 * MARGIN) / (high - low or 1.0)
    points = " ".join(f"{MARGIN + k * across:.1f},{MARGIN + (high - value) * down:.1f}" for k, value in enumerate(curve))
    label = '<text x="{}" y="{}" text-anchor="{}" font-family="sans-serif" font-size="12">{}</text>'
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">'
        '<rect width="100%" height="100%" fill="#fff"/>'
        f'<polyline fill="none" stroke="#b03060" stroke-width="2" points="{points}"/>'
        + label.format(MARGIN - 6, MARGIN + 4, "end", f"{high:.3f}") + label.format(MARGIN - 6, HEIGHT - MARGIN + 4, "end", f"{low:.3f}")
        + label.format(MARGIN, HEIGHT - 16, "start", "step 0") + label.format(WIDTH - MARGIN, HEIGHT - 16, "end", f"step {len(curve) - 1}")
        + "</svg>"
    )
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
