"""A verdict as JSON and as one HTML page: what was checked, every task, and everything that became public.

The page has no scripts and loads nothing; every text in it is escaped. JSON holds no floats: bits are integers rounded down,
decimals are text. Called by verifier/__main__.py and tasks/verify.py.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from fractions import Fraction
from html import escape
from pathlib import Path
from typing import Any

from protocol.manifest import RunManifest
from verifier.evidence import Rows, Verdict
from verifier.run import TaskVerdict


def losses(manifest: RunManifest, tasks: Iterable[TaskVerdict]) -> list[str]:
    """The proved mean token loss of every step, in nats to 6 decimals; empty if it was not published.

    A head task publishes the sum over a step's loss tokens, an integer in units of 2^−g.
    """
    out: dict[int, str] = {}
    unit = Fraction(2) ** -manifest.exponents.get("head/vocab.g", 0)
    for item in tasks:
        if item.task.kind == "head" and "loss" in item.published:
            first = manifest.windows()[item.task.window].first
            for step, total in enumerate(item.published["loss"].tolist(), first):
                out[step] = f"{float(total * unit / manifest.loss_tokens[step]):.6f}"
    return [out[step] for step in sorted(out)]


def became_public(rows: Rows, manifest: RunManifest, tasks: Iterable[TaskVerdict]) -> dict[str, Any]:
    """Everything about a run that whoever reads its ledger knows: the manifest, and by topic what rows and proofs add to it; the
    loss only where it was verified."""
    public: dict[str, Any] = json.loads(rows.manifest)
    return public | {
        "loss": losses(manifest, tasks) if manifest.publish_loss else "not published",
        "provers": sorted({row["prover"] for row in rows.proofs.values()}),
        "proof_seconds": [rows.proofs[item.statement_id]["seconds"] for item in tasks],
        "events": [f"{row['kind']} {row['detail']}" for row in rows.events],
    }


def report(verdict: Verdict) -> dict[str, Any]:
    """The verdict as JSON."""
    rows, found = verdict.rows, verdict.found
    tasks, proofs = found.tasks if found else (), rows.proofs if rows else {}
    errors = [2.0**-item.soundness.total_bits if item.soundness else 1.0 for item in tasks]
    digests = {"checkpoint": hashlib.sha256(verdict.checkpoint).hexdigest()}
    return {
        "run": verdict.run_id, "state": verdict.state, "accepted": verdict.accepted, "reason": verdict.reason, "order": verdict.order,
        "sample": found.sample.text(found.count) if found and found.sample else "",
        "log": {"origin": rows.log.origin, "size": rows.log.size, "root": rows.log.root.hex(), "trust": verdict.trust} if rows else {},
        "digests": digests | ({"manifest": hashlib.sha256(rows.manifest).hexdigest()} if rows else {}),
        "manifest": found.manifest.digest() if found else "",
        # what an adapter has to open: whoever gets it may be shown another ledger
        "delivered": {name: row["commitment_id"] for name, row in (rows.commitments.items() if rows and verdict.accepted else ())
                      if row["name"].startswith("delivered/")},
        "bits": math.floor(found.bits) if found else 0,
        "total_bits": math.floor(-math.log2(sum(errors))) if tasks and max(errors) < 1 else 0,
        "proof_bytes": sum(row["size"] for row in proofs.values()),
        "tasks": [
            {
                "task": str(item.task), "kind": item.task.kind, "window": item.task.window, "layer": item.task.layer,
                "part": item.task.part, "statement": item.statement_id, "accepted": item.accepted, "reason": item.reason,
                "bits": math.floor(item.soundness.bits) if item.soundness else 0,
                "soundness": item.soundness.to_json() if item.soundness else {},
                "proof": proofs[item.statement_id]["object_digest"], "proof_bytes": proofs[item.statement_id]["size"],
            }
            for item in tasks
        ],
        "public": became_public(rows, found.manifest, tasks) if rows and found else {},
    }


_STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1c2024;background:#fff}
h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:2rem}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:left;vertical-align:top;padding:.3rem .8rem .3rem 0;border-bottom:1px solid #d8dce0}
td:last-child{overflow-wrap:anywhere;min-width:10rem}td:nth-child(5){overflow-wrap:anywhere;font:.8rem/1.5 monospace}
.accepted{color:#0b6b2e}.rejected{color:#a3171b}.sample{color:#7a4b00}
@media(prefers-color-scheme:dark){body{color:#e6e8ea;background:#16181a}th,td{border-color:#3a3f44}
.accepted{color:#6fd68f}.rejected{color:#ff8f8f}.sample{color:#f0c060}}"""


def html(values: Mapping[str, Any]) -> str:
    """A report as one self-contained page."""
    state = str(values["state"])
    log = values["log"]
    facts = {
        "run": values["run"], "verdict": state, "reason": values["reason"] or "–", "order": values["order"],
        "soundness": f"{values['bits']} bits per proof, {values['total_bits']} for all proofs together",
        "log": f"{log['origin']}, size {log['size']}, root {log['root']}; {log['trust']}" if log else "no usable checkpoint",
        **{f"SHA-256 of the {name}": digest for name, digest in sorted(values["digests"].items())},
    }
    if values["sample"]:
        facts["sample"] = values["sample"]
    tasks = [
        (item["task"], "accepted" if item["accepted"] else "rejected", item["bits"], item["proof_bytes"], item["statement"], item["reason"])
        for item in values["tasks"]
    ]
    return (
        "<!DOCTYPE html>\n<html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>Verification of run {escape(values['run'])}</title><style>{_STYLE}</style>\n<main>"
        f"<h1>Run <bdi>{escape(values['run'])}</bdi>: <span class='{escape(state)}'>{escape(state)}</span></h1>\n"
        + _table("What was judged", ("", ""), facts.items())
        + _table("Tasks", ("task", "verdict", "bits", "proof bytes", "statement", "reason"), tasks)
        + _table("What became public", ("topic", ""), ((topic, _plain(value)) for topic, value in values["public"].items()))
        + "</main></html>\n"
    )


def _table(title: str, head: tuple[str, ...], rows: Iterable[Iterable[object]]) -> str:
    body = "\n".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    columns = "".join(f"<th scope=col>{escape(name)}</th>" for name in head)
    return f"<h2>{escape(title)}</h2>\n<table><thead><tr>{columns}</tr></thead><tbody>\n{body}</tbody></table>\n"


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    return " ".join(str(item) for item in value) if isinstance(value, list) else str(value)


def write_report(folder: Path, values: Mapping[str, Any]) -> None:
    """report.json and report.html in `folder`, which is created."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "report.json", json.dumps(values, indent=2, sort_keys=True).encode() + b"\n")
    write_whole(folder / "report.html", html(values).encode())


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file at once: a crash leaves the old one or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(data)
    temporary.replace(path)
