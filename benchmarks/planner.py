"""What the planner foretells beside what is then measured, task by task; and what it says of real shapes.

    python -m benchmarks.planner                       tasks of one step, from narrow to wide: processor seconds, peak memory, proof bytes
    python -m benchmarks.planner --real 80GB           layer, head and embed tasks of 1.1B, 7B and 13B: which fit, and what takes the memory

Every measurement is a process of its own. Times are processor time, foretold and measured under the same load.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.shapes import Shape
from benchmarks.stage import foretold, stage
from prover.backend import select
from prover.cost.forecast import PARTS
from prover.cost.machine import resident_bytes
from prover.cost.rates import measure

POINTS = [  # width, tokens, rank, kind of task
    (128, 128, 8, "layer"), (256, 64, 4, "layer"), (256, 512, 8, "layer"), (512, 256, 16, "layer"), (1024, 128, 8, "layer"),
    (1024, 256, 32, "layer"), (256, 512, 8, "head"), (1024, 256, 8, "head"), (512, 256, 8, "embed"),
]


def compare(width: int, tokens: int, rank: int, kind: str) -> dict[str, Any]:
    """One task of a step of one layer: proved, the machine measured, proved again with memory that is not fresh."""
    shape = Shape(width, 11 * width // 4, 1, 4, 2, 512)
    name = "goldilocks-2^14" if width <= 512 else "goldilocks-2^16"
    with tempfile.TemporaryDirectory() as folder:
        s = stage(shape, tokens, name, select(), Path(folder), rank, clock=time.process_time)
        _ = s.trace
    [task] = s.tasks((kind,))
    found, program = foretold(s.manifest, task, s.params), resident_bytes("cpu")
    first = s.prove(task)
    rates, second = measure(s.backend, s.params, s.ops, time.process_time), s.prove(task)
    if (found.valid, found.padded, found.lookups) != (second.valid, second.padded, second.lookups):
        raise RuntimeError("the planner counts other cells than the prover")
    return {
        "task": kind, "width": width, "tokens": tokens, "rank": rank, "lookups": found.lookups, "valid": found.valid,
        "foretold": {part: rates.total(found.parts[part]) for part in PARTS}, "measured": dict(second.seconds),
        "phases": dict(second.phases), "units": {part: rates.seconds(found.parts[part]) for part in PARTS},
        "memory_foretold": program + found.memory.peak, "memory_measured": first.peak_bytes, "phase": found.memory.peak_phase,
    }


HEAD = f"{'task':7}{'width':>6}{'tokens':>7}{'rank':>5}{'lookups/M':>10}  "
HEAD += "".join(f"{title:>18}" for title in (*(f"{part} s" for part in (*PARTS, "all")), "peak MB"))


def line(row: dict[str, Any]) -> str:
    """Foretold / measured for each part, and how far off all of it is."""
    told, seen = row["foretold"], row["measured"]
    pairs = [(told[part], seen[part]) for part in PARTS] + [(sum(told.values()), sum(seen.values()))]
    text = f"{row['task']:7}{row['width']:6}{row['tokens']:7}{row['rank']:5}{row['lookups'] / 1e6:10.2f}  "
    text += "".join(f"{a:7.2f}/{b:5.2f} {100 * (a / b - 1):+4.0f}%" for a, b in pairs)
    a, b = row["memory_foretold"] / 1e6, row["memory_measured"] / 1e6
    return text + f"{a:7.0f}/{b:5.0f} {100 * (a / b - 1):+4.0f}%"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planner")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--points", type=int, default=len(POINTS), help="so many of the points")
    parser.add_argument("--json", type=Path, help="also write every figure here")
    arguments = parser.parse_args()
    if arguments.one:
        *sizes, kind = arguments.one
        print(json.dumps(compare(*map(int, sizes), kind)))
        return
    print(HEAD)
    rows: list[dict[str, Any]] = []
    for point in POINTS[: arguments.points]:
        command = [sys.executable, "-m", "benchmarks.planner", "--one", *map(str, point)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr[-3000:])
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(line(rows[-1]), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
