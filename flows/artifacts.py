"""What a flow run shows in Prefect's own pages: the grid of proofs, window by window. Public facts only.

Prefect's pages are a convenience: nothing there is evidence, and a failure to write it changes nothing. Called by
flows/finetune.py.
"""

import logging

from prefect.artifacts import create_markdown_artifact

from flows.session import Summary
from tasks.context import RunContext


def show_run(context: RunContext, summary: Summary) -> None:
    """Publish the grid of a run as a Markdown artifact."""
    text = f"# Run {context.run_id}\n\n{summary.tasks} tasks, {summary.proof_bytes:,} proof bytes, "
    text += f"at least {summary.soundness_bits} bits each\n\n{proof_grid(context)}\n"
    try:
        create_markdown_artifact(text, key=f"run-{context.run_id}", description="proofs by window and layer")
    except Exception as error:  # whatever the server's trouble is, the run itself is finished
        logging.getLogger(__name__).warning("no artifact: %s", type(error).__name__)


def proof_grid(context: RunContext) -> str:
    """A Markdown table, one row for each window: the proof of embed, every layer, head as its size, – if there is none."""
    sizes = {row.statement_id: row.size for row in context.stores.ledger.record(context.run_id).proofs}
    columns = ["embed", *(f"layer {n}" for n in range(context.manifest.model.layers)), "head"]
    lines = [f"| window | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for window in range(-1, len(context.manifest.windows())):
        cells = [sizes.get(identity) for identity, task in context.statements.items() if task.window == window]
        shown = ["–" if size is None else f"{size:,}" for size in cells]
        if window >= 0:
            lines.append(f"| {window} | {' | '.join(shown)} |")
        else:
            before = f"range proofs: {', '.join(shown)}"
    return "\n".join([before, "", *lines])
