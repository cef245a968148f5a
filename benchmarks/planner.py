"""What the planner foretells beside what is then measured, task by task; and what it says of real shapes.

    python -m benchmarks.planner                       tasks of one step, from narrow to wide: processor seconds, peak memory, proof bytes
    python -m benchmarks.planner --real                memory of the tasks of 1.1B, 7B and 13B at 512 and 2,048 tokens, by what takes it
                    … --sequences 4 --parts 4          of steps of four such sequences, in four parts
                    … --memory 17600000000             for a prover that has so many bytes, one of several on a card

Every measurement is a process of its own. Times are processor time, foretold and measured under the same load: each part is the least of
REPEATS, as rates are the least of a few runs.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.gpu import TOY
from benchmarks.shapes import SHAPES, Shape
from benchmarks.stage import foretold, stage
from protocol.manifest import RunManifest
from protocol.params import profile
from protocol.statement import commitment_layout, opening_counts, task_list
from prover.backend import select
from prover.backend.memory import give_back
from prover.cost.forecast import PARTS, Counted, forecast
from prover.cost.machine import describe, resident_bytes
from prover.cost.rates import measure
from prover.cost.work import Place

REPEATS = 3
CARDS = {"tinyllama-1.1b": 24 * 10**9, "llama-2-7b": 80 * 10**9, "llama-2-13b": 80 * 10**9}
POINTS = [  # width, tokens, rank, kind of task
    (128, 128, 8, "layer"), (256, 64, 4, "layer"), (256, 512, 8, "layer"), (512, 128, 16, "layer"), (1024, 128, 8, "layer"),
    (512, 256, 8, "head"), (512, 256, 8, "embed"),
]


def compare(width: int, tokens: int, rank: int, kind: str) -> dict[str, Any]:
    """One task of a step of one layer: proved, the machine measured, proved again, between rates, with memory that is not fresh."""
    shape = Shape(width, 11 * width // 4, 1, 4, 2, 512)
    name = "goldilocks-2^14" if width <= 512 else "goldilocks-2^16"
    with tempfile.TemporaryDirectory() as folder:
        s = stage(shape, tokens, name, select(), Path(folder), rank, clock=time.process_time)
        _ = s.trace
    [task] = s.tasks((kind,))
    give_back()
    found = foretold(s.manifest, task, s.params, Place.of(s.backend.name, s.backend.memory))
    program = resident_bytes(s.backend.name)
    first = s.prove(task)
    rates = measure(s.backend, s.params, time.process_time)
    again = [s.prove(task) for _ in range(REPEATS)]
    if any((found.valid, found.padded, found.lookups) != (m.valid, m.padded, m.lookups) for m in again):
        raise RuntimeError("the planner counts other cells than the prover")
    seconds, phases = ({key: min(getattr(m, name)[key] for m in again) for key in getattr(first, name)} for name in ("seconds", "phases"))
    return {
        "task": kind, "width": width, "tokens": tokens, "rank": rank, "lookups": found.lookups, "valid": found.valid,
        "foretold": {part: rates.total(found.parts[part]) for part in PARTS}, "measured": seconds,
        "every": [dict(m.seconds) for m in again], "phases": phases, "units": {part: rates.seconds(found.parts[part]) for part in PARTS},
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


def real_manifest(name: str, tokens: int) -> RunManifest:
    """One sequence of a real shape, without weights: the exponents are those of a small model's first layer, for every layer."""
    with tempfile.TemporaryDirectory() as folder:
        small = stage(replace(TOY, num_hidden_layers=1), 64, "goldilocks-2^20", select("cpu"), Path(folder)).manifest
    x = SHAPES[name]
    model = replace(
        small.model, vocab=x.vocab_size, hidden=x.hidden_size, layers=x.num_hidden_layers, heads=x.num_attention_heads,
        kv_heads=x.num_key_value_heads, head_dim=x.head_dim, ffn=x.intermediate_size,
    )
    longer = (tokens // 64).bit_length() - 1  # sums over tokens grow with their number
    exponents = {k: v - longer if k.endswith(".grad") else v for k, v in small.exponents.items()}
    for layer in range(1, model.layers):
        exponents |= {k.replace("/0/", f"/{layer}/"): v for k, v in exponents.copy().items() if "/0/" in k}
        exponents |= {f"base/{layer}/{k.removeprefix('base/0/')}": v for k, v in exponents.copy().items() if k.startswith("base/0/")}
        exponents[f"dx/{layer + 1}"] = small.exponents["dx/1"]
    return replace(small, model=model, sequence_length=tokens, exponents=exponents, loss_tokens=(tokens,))


def real(name: str, tokens: int, sequences: int, parts: int, memory: int) -> None:
    """Memory of every kind of task for a prover that has so much of a GPU; 0 for all of one of the size that should do."""
    one = real_manifest(name, tokens)
    manifest = replace(one, batch_size=sequences, examples=sequences, parts=parts, loss_tokens=(sequences * tokens,))
    manifest = replace(manifest, budgets=opening_counts(manifest))
    for kind in ("layer", *(["update"] if parts > 1 else []), "head", "embed"):
        task = next(t for t in task_list(manifest) if t.kind == kind)
        params = profile(manifest.profile)
        counted = Counted.of(lambda task=task: task.graph(manifest), params.field)  # type: ignore[misc]
        found = [commitment_layout(manifest, name) for _, name in task.commitments]
        told = forecast(counted, params, found, Place.of("cuda", memory or CARDS[name]))
        phase, terms = told.memory.peak_phase, told.memory.phases[told.memory.peak_phase]
        print(f"{name} {tokens:5} {kind:6} valid {told.valid / 1e6:6.0f} M, padded {told.padded / 1e6:6.0f} M, lookups "
              f"{told.lookups / 1e6:6.0f} M; peak {describe(told.memory.peak)} ({phase})")
        print("    " + ", ".join(f"{key} {describe(size)}" for key, size in terms.items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planner")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--points", type=int, default=len(POINTS), help="so many of the points")
    parser.add_argument("--json", type=Path, help="also write every figure here")
    parser.add_argument("--real", action="store_true", help="instead: the memory of real shapes")
    parser.add_argument("--sequences", type=int, default=1, help="of a step of real shapes")
    parser.add_argument("--parts", type=int, default=1, help="that share them")
    parser.add_argument("--memory", type=int, default=0, help="bytes of a GPU that a prover has")
    arguments = parser.parse_args()
    if arguments.real:
        for name in SHAPES:
            for tokens in (512, 2048):
                real(name, tokens, arguments.sequences, arguments.parts, arguments.memory)
        return
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
