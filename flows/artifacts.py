"""What a flow run shows in Prefect's own pages: the grid of proofs, window by window, and the loss curve. Public facts only.

Prefect's pages are a convenience: nothing there is evidence, and a failure to write it changes nothing. Called by
flows/finetune.py.
"""

import base64
import json
import logging

from prefect.artifacts import create_image_artifact, create_markdown_artifact

from flows.session import Summary
from protocol.statement import Task
from storage.ledger import RunRecord
from tasks.context import RunContext

WIDTH, HEIGHT, MARGIN = 720, 240, 48


def show_run(context: RunContext, summary: Summary) -> None:
    """Publish the grid of a run as a Markdown artifact, and its loss curve as an image where the loss is public."""
    record = context.stores.ledger.record(context.run_id)
    text = f"# Run {context.run_id}\n\n{summary.tasks} tasks, {summary.proof_bytes:,} proof bytes, "
    text += f"at least {summary.soundness_bits} bits each\n\n{proof_grid(context, record)}\n"
    curve = losses(context, record)
    try:
        create_markdown_artifact(text, key=f"run-{context.run_id}", description="proofs by window and layer")
        if curve:
            create_image_artifact(image_url(curve), key=f"loss-{context.run_id}", description="proved mean token loss per step, in nats")
    except Exception as error:  # whatever the server's trouble is, the run itself is finished
        logging.getLogger(__name__).warning("no artifact: %s", type(error).__name__)


def column(task: Task) -> str:
    """Where a task stands in the grid."""
    return f"layer {task.layer}" if task.kind == "layer" else task.kind


def proof_grid(context: RunContext, record: RunRecord) -> str:
    """A Markdown table, one row for each window: bytes of the proofs of each kind of task and layer, – where one is missing."""
    sizes = {row.statement_id: row.size for row in record.proofs}
    cells: dict[tuple[int, str], list[int | None]] = {}
    for identity, task in context.statements.items():
        cells.setdefault((task.window, column(task)), []).append(sizes.get(identity))
    columns = list(dict.fromkeys(column(t) for t in context.statements.values() if t.window >= 0))
    lines = ["range proofs: " + ", ".join(map(_shown, cells[-1, "range"])), ""]
    lines += [f"| window | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for window in range(len(context.manifest.windows())):
        row = [", ".join(map(_shown, cells.get((window, name), []))) for name in columns]
        lines.append(f"| {window} | {' | '.join(row)} |")
    return "\n".join(lines)


def _shown(size: int | None) -> str:
    return "–" if size is None else f"{size:,}"


def losses(context: RunContext, record: RunRecord) -> list[float]:
    """Mean token loss of every step as the head statements publish it, in nats; empty unless all of it is public."""
    manifest = context.manifest
    if not manifest.publish_loss:
        return []
    heads = sorted((row for row in record.statements if row.kind == "head"), key=lambda row: row.window)
    totals = [total for row in heads for total in json.loads(row.content)["published"]["loss"]]
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
