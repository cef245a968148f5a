"""Machine instructions of each kernel for one of PTX, by NVIDIA's disassembler: what is counted on a card that is not there is PTX.

Of the kernel's text, not of what is executed, so a kernel whose loops have another mix than what is around them is off. Needs
nvidia-cuda-nvdisasm (`make bench-launches` installs it). Called by benchmarks/launches.py.
"""

import importlib.util
import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

from tests.support.card.ptx_text import read
from tests.support.nvrtc import compile_for

ARCHITECTURE = "sm_90"
OTHER = 1.5  # of the library's kernels, which are small
_INSTRUCTION = re.compile(r"\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)")


def disassembler() -> Path:
    spec = importlib.util.find_spec("nvidia")
    for root in (spec.submodule_search_locations or []) if spec else []:
        for found in Path(root).rglob("nvdisasm"):
            found.chmod(0o755)  # as a wheel it comes without
            return found
    raise SystemExit("no nvdisasm: pip install nvidia-cuda-nvdisasm")


def ratios() -> dict[str, float]:
    """By kernel."""
    made = compile_for(ARCHITECTURE)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.cubin)
        file.flush()
        text = subprocess.run([str(disassembler()), "-c", file.name], capture_output=True, text=True, check=True).stdout
    machine, kernel = Counter[str](), ""
    for line in text.splitlines():
        if begun := re.match(r"\.text\.(\w+):", line):
            kernel = begun[1]
        elif line.startswith("\t.section"):
            kernel = ""
        elif kernel and (found := _INSTRUCTION.match(line)) and found[1] != "NOP":
            machine[kernel] += 1
    virtual = {k.name: sum(not (x.endswith(":") or x in "{}" or x.startswith(".")) for x in k.body) for k in read(made.ptx)[1]}
    return {name: machine[name] / n for name, n in virtual.items()}
