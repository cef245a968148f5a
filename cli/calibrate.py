"""`verilora calibrate`: the room that calibrated exponents leave, tensor by tensor, and what quantised weights cost.

Nothing is written and no run is touched, so it may be repeated with other values of the quantisation section until both look
right; `verilora run` then calibrates in the same way, and the exponents are part of the run's manifest.
"""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.output import console, emit_json, reporting, telling
from cli.run import Debug, Json, RunYaml

if TYPE_CHECKING:
    from prover.executor.quantisation import QuantisationError


def calibrate(
    path: RunYaml, show_all: Annotated[bool, typer.Option("--all", help="Every tensor, not the tightest of each kind.")] = False,
    as_json: Json = False, debug: Debug = False,
) -> None:
    """Show the headroom of every calibrated tensor and the loss of the quantised model against the stored one."""
    from flows.session import calibrate as compute

    with reporting(debug):
        with telling() as tell:
            drafted, error = compute(str(path), tell)
        quantisation = {"weights": f"int{drafted.manifest.widths['weight']}", "scales": drafted.manifest.weight_scales}
        tensors = [
            {"tensor": row.key, "largest": row.maximum, "exponent": row.exponent, "width": row.bits,
             "bits_left": bits_left(row.maximum, row.exponent, row.bits)} for row in drafted.prepared.calibration.table
        ]
        if as_json:
            emit_json({
                "quantisation": quantisation | loss_values(error), "tensors": tensors,
                "calibration_losses": [round(x, 6) for x in drafted.prepared.calibration.losses],
            })
            return
        _print_table(tensors if show_all else _tightest(tensors))
        console.print(
            f"largest: seen in {len(drafted.prepared.calibration.losses)} floating-point steps at the peak learning rate; bits left: "
            "above it, sign apart. Training stops when a value needs more; quantisation.headroom adds to all", markup=False, soft_wrap=True,
        )
        console.print(loss_line(error, drafted.manifest.widths["weight"], drafted.manifest.weight_scales), markup=False, soft_wrap=True)


def bits_left(maximum: float, exponent: int, width: int) -> float | None:
    """log2 of how much larger than `maximum` a value may be in `width` bits with sign; None for a tensor that was zero."""
    from math import log2

    return round(width - 1 - exponent - log2(maximum), 1) if maximum > 0 else None


def loss_values(error: "QuantisationError") -> dict[str, float]:
    """For --json."""
    return {"loss_stored": round(error.stored, 6), "loss_quantised": round(error.quantised, 6), "relative": round(error.relative, 6)}


def loss_line(error: "QuantisationError", bits: int, scales: str) -> str:
    """One sentence on what quantisation costs."""
    return (
        f"base weights as int{bits} with one scale per {scales}: mean token loss before training {error.quantised:.6f}, as stored "
        f"{error.stored:.6f} ({100 * error.relative:+.4f} %)"
    )


def _tightest(tensors: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of the tensors that differ by layer and module alone, the one with the least room."""
    kinds: dict[str, dict[str, Any]] = {}
    for row in tensors:
        parts = row["tensor"].replace("/", ".").split(".")
        kind = ".".join(part for part in parts if not part.isdigit() and not part.endswith("_proj"))
        least = kinds.get(kind)
        if least is None or _room(row) < _room(least):
            kinds[kind] = row
    return list(kinds.values())


def _room(row: dict[str, Any]) -> float:
    return float("inf") if row["bits_left"] is None else float(row["bits_left"])


def _print_table(tensors: list[dict[str, Any]]) -> None:
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table("tensor", "largest", "exponent", "width", "bits left", box=SIMPLE)
    for row in sorted(tensors, key=_room):
        left = "–" if row["bits_left"] is None else f"{row['bits_left']:.1f}"
        table.add_row(row["tensor"], f"{row['largest']:.4g}", str(row["exponent"]), str(row["width"]), left)
    console.print(table)
