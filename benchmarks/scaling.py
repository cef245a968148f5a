"""`make bench-scaling`: how one layer task grows with tokens, width, rank and threads, and a step with layers; a plot and slopes.

    cost per token and layer = seconds / (tokens · layers);   slope = d log(seconds) / d log(size), by least squares over a curve

Every point is a layer task of one step on random weights (benchmarks/shapes.py), trained, proved and verified in a process of its own,
so that its peak memory is its own. With real names (`--point tinyllama-1.1b TOKENS`) one layer of that model instead of the curves.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.shapes import SHAPES, Shape
from benchmarks.stage import stage
from prover.backend import select

BASE = Shape(256, 704, 1, 4, 2, 512)
CURVES: dict[str, list[dict[str, int]]] = {
    "tokens": [{"tokens": n} for n in (64, 128, 256, 512)],
    "width": [{"width": n} for n in (128, 256, 512, 1024)],
    "rank": [{"rank": n} for n in (4, 8, 16, 32)],
    "layers": [{"layers": n} for n in (1, 2, 4)],
    "threads": [{"threads": n} for n in range(1, (os.cpu_count() or 1) + 1)],
}


@dataclass(frozen=True)
class Point:
    """One measurement: sizes, then what was measured. Seconds of a proof are those of one layer, of training those of a step."""

    tokens: int
    width: int
    rank: int
    layers: int
    threads: int
    committed: int
    lookups: int
    train_seconds: float
    prove_seconds: float
    verify_seconds: float
    proof_bytes: int
    peak_bytes: int


def measure(shape: Shape, tokens: int, rank: int, threads: int, profile: str) -> Point:
    """Train one step, prove and verify the task of every layer, on this process's threads; the first one pays for fresh memory."""
    with tempfile.TemporaryDirectory() as folder:
        s = stage(shape, tokens, profile, select(), Path(folder), rank)
        _ = s.trace
        tasks = s.tasks(("layer",))
        s.prove(tasks[0])
        found = [s.prove(task) for task in tasks]
    return Point(
        tokens, shape.hidden_size, rank, len(found), threads, sum(f.valid for f in found), sum(f.lookups for f in found), s.train_seconds,
        sum(f.seconds["prove"] + f.seconds["evaluate"] for f in found), sum(f.seconds["verify"] for f in found),
        sum(f.proof_bytes for f in found), max(f.peak_bytes for f in found),
    )


def point(change: dict[str, int], name: str = "") -> Point:
    """The same in a process of its own."""
    threads = change.get("threads", os.cpu_count() or 1)
    environment = os.environ | {"VERILORA_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scaling", "--one", json.dumps({"name": name, **change})],
        env=environment, capture_output=True, text=True, check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return Point(**json.loads(done.stdout.splitlines()[-1]))


def one(change: dict[str, int | str]) -> Point:
    """A point by its differences from the base, or one layer of a real shape."""
    name, tokens = str(change.pop("name", "")), int(change.get("tokens", 128))
    shape = replace(SHAPES[name], num_hidden_layers=1) if name else BASE
    if "width" in change:
        width = int(change["width"])
        shape = replace(shape, hidden_size=width, intermediate_size=11 * width // 4)
    shape = replace(shape, num_hidden_layers=int(change.get("layers", 1)))
    profile = "goldilocks-2^16" if name or int(change.get("width", 0)) > 512 else "goldilocks-2^14"
    return measure(shape, tokens, int(change.get("rank", 8)), int(os.environ.get("VERILORA_THREADS", "0")), profile)


def slope(sizes: list[int], seconds: list[float]) -> float:
    """Exponent of the power law nearest to a curve."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def plot(curves: dict[str, list[Point]], file: Path) -> None:
    """One panel for each curve, both axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(curves), figsize=(4 * len(curves), 3.4), constrained_layout=True)
    for panel, (axis, points) in zip(panels, curves.items()):
        sizes = [getattr(p, axis) for p in points]
        for what, style in (("prove_seconds", "o-"), ("verify_seconds", "s--"), ("train_seconds", "^:")):
            seconds = [getattr(p, what) for p in points]
            panel.loglog(sizes, seconds, style, label=f"{what.split('_')[0]} (slope {slope(sizes, seconds):.2f})")
        panel.set(xlabel=axis, ylabel="seconds" if axis == "tokens" else "", xticks=sizes, xticklabels=sizes)
        panel.minorticks_off()
        panel.legend(fontsize=8)
        panel.grid(alpha=0.3)
    figure.savefig(file, dpi=110)


def row(p: Point) -> str:
    size = f"{p.tokens:6} {p.width:6} {p.rank:5} {p.layers:6} {p.threads:7}"
    cost = f"{p.committed / 1e6:9.2f} {p.lookups / 1e6:9.2f} {p.train_seconds:7.2f} {p.prove_seconds:7.2f} {p.verify_seconds:7.2f}"
    return f"{size} {cost} {p.proof_bytes / 1e6:7.2f} {p.peak_bytes / 1e9:7.2f}  {1000 * p.prove_seconds / p.tokens / p.layers:9.2f}"


HEAD = ("tokens  width  rank layers threads  values/M lookups/M train/s prove/s verify/s proof/MB peak/GB  prove ms per token and layer")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling")
    parser.add_argument("--plot", type=Path, help="write the curves here")
    parser.add_argument("--point", nargs=2, metavar=("NAME", "TOKENS"), help=f"one layer of {', '.join(SHAPES)}")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(asdict(one(json.loads(arguments.one)))))
        return
    print(HEAD)
    if arguments.point:
        print(row(point({"tokens": int(arguments.point[1])}, arguments.point[0])))
        return
    curves: dict[str, list[Point]] = {}
    for axis, changes in CURVES.items():
        curves[axis] = []
        for change in changes:
            curves[axis].append(point(change))
            print(row(curves[axis][-1]), flush=True)
    for axis, points in curves.items():
        print(f"slope of proving over {axis}: {slope([getattr(p, axis) for p in points], [p.prove_seconds for p in points]):.2f}")
    if arguments.plot:
        plot(curves, arguments.plot)


if __name__ == "__main__":
    main()
