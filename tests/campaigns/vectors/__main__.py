"""`make vectors`: make all vectors anew, under two hash seeds, and compare them with tests/vectors/*.json.

python -m tests.campaigns.vectors            compare; exit 1 on any difference
python -m tests.campaigns.vectors write      write the files instead (after a change of the protocol that is meant)
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.campaigns.vectors import make_core, make_log, make_manifest, make_proof, make_relation

FOLDER = Path(__file__).parents[2] / "vectors"


def write(folder: Path) -> None:
    for module in (make_core, make_relation, make_manifest, make_log, make_proof):
        for suite in module.suites():
            (folder / f"{suite.name}.json").write_text(suite.text(), encoding="utf-8")


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.json")) if path.name != "schema.json"}


def main() -> int:
    if sys.argv[1:]:
        write(FOLDER if sys.argv[1] == "write" else Path(sys.argv[1]))
        return 0
    stored, wrong = files(FOLDER), list[str]()
    for seed in ("1", "2"):
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([sys.executable, "-m", __spec__.parent, folder], env=os.environ | {"PYTHONHASHSEED": seed}, check=True)
            made = files(Path(folder))
        wrong += [f"{name} (hash seed {seed})" for name in sorted(made.keys() | stored.keys()) if made.get(name) != stored.get(name)]
    texts = [line for data in stored.values() for line in data.decode().split("\n") if line.startswith('{"id"')]
    invalid = sum('"reason":"' in line for line in texts)
    counts = f"{len(texts)} in {len(stored)} files ({invalid} invalid)"
    print(f"vectors: {counts}, made under 2 hash seeds, differing files {len(wrong)}: {wrong or 'none'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
