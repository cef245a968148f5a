"""The demonstration: an audited fine-tune in ./demo, then its verification by a new process, then the adapter.

    python -m examples.demo [DIR]

Every step is the command that a user would type. An existing folder is continued: a finished run is not repeated, and
the proofs are verified again. Called by `make demo`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def verilora(folder: Path, *arguments: str, capture: bool = False) -> Any:
    """One command in a process of its own; its JSON if `capture`. Ends the demonstration if it fails."""
    print(f"\n$ verilora {' '.join(arguments)}", flush=True)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", "cli", *arguments], cwd=folder, env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE if capture else None, text=True, check=False,
    )
    if done.returncode:
        print(done.stdout or "", end="")
        sys.exit(done.returncode)
    return json.loads(done.stdout) if capture else None


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "demo").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "run.yaml").exists():
        verilora(folder, "init", ".")
    verilora(folder, "run", "run.yaml")
    run = verilora(folder, "run", "run.yaml", "--json", capture=True)  # finished: only its numbers
    verdict = verilora(folder, "verify", run["run"], "--expect", "order.yaml", "--json", capture=True)
    print(f"accepted {sum(t['accepted'] for t in verdict['tasks'])} of {len(verdict['tasks'])} tasks")
    exported = folder / f"adapter-{run['run']}"
    if not exported.exists():
        verilora(folder, "adapter", "export", run["run"], exported.name)
    verilora(folder, "adapter", "check", exported.name, run["run"])
    _report(run, verdict)


def _report(run: dict[str, Any], verdict: dict[str, Any]) -> None:
    losses = verdict["public"]["loss"]
    print(f"""
Proved in zero knowledge, run {run['run']}:
  every one of {run['steps']} training steps in {run['windows']} windows: data order, embedding, forward and backward pass
  through every layer, loss, gradients, optimizer, and that the adapter handed over is the result
  published loss per step  {' '.join(f'{float(x):.3f}' for x in losses) if isinstance(losses, list) else losses}
  tasks                    {run['tasks']}, all verified by a process that shares no prover code
  proof bytes              {run['proof_bytes']:,}
  soundness                at least {verdict['bits']} bits per proof, {verdict['total_bits']} for the whole run
  training                 {run['train_seconds']:.1f} s
  proving                  {run['prove_seconds']:.1f} s
  verifying                {verdict['seconds']:.1f} s
  verdict                  {'accepted' if verdict['accepted'] else 'rejected: ' + verdict['reason']}; {verdict['order']}
""")


if __name__ == "__main__":
    main()
