"""A dataset committed by its owner: the id covers everything, the secret stays secret, an altered file is refused."""

import io
import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protocol.statement import Name, commitment_layout
from prover.backend import select
from prover.commitment.commit import commit
from prover.files.dataset import DatasetError, TokenisedDataset
from prover.files.dataset_opening import DatasetOpening, commit_dataset, read_opening, write_opening
from tests.toy import toy_manifest

PROFILE = "goldilocks-2^10"


def data(digest: str = "a" * 64) -> TokenisedDataset:
    tokens = np.arange(18).reshape(3, 6) % 11
    return TokenisedDataset(tokens, (np.arange(15).reshape(3, 5) % 3 > 0).astype(np.int64), digest, 0, 1)


@pytest.fixture
def opening() -> DatasetOpening:
    return commit_dataset(data(), "Archive of Haiku", PROFILE, 3)


def test_it_comes_back(opening: DatasetOpening, tmp_path: Path) -> None:
    secret, public = write_opening(tmp_path / "out", opening)
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    found = read_opening(secret)
    assert (found.tokens == opening.tokens).all() and (found.mask == opening.mask).all() and found.tokens.dtype == np.int64
    keys = ("seed", "id", "owner", "profile", "openings", "tokenizer_digest")
    assert [getattr(found, k) for k in keys] == [getattr(opening, k) for k in keys]
    shown = json.loads(public.read_text())
    assert shown == opening.public() and (shown["examples"], shown["sequence_length"], shown["owner"]) == (3, 5, "Archive of Haiku")
    assert opening.seed.hex() not in public.read_text() and "tokens" not in shown


def test_the_id_is_that_of_a_run(opening: DatasetOpening) -> None:
    manifest = replace(
        toy_manifest(examples=3, steps=1, window_steps=1), tokenizer_digest="a" * 64, profile=PROFILE, budgets={"dataset": 3}
    )
    layout = commitment_layout(manifest, Name("dataset"))
    assert layout.label == "a" * 64
    root = commit(select(), layout, {"tokens": opening.tokens, "mask": opening.mask}, opening.seed).root
    assert layout.identity(root) == opening.id
    other = commitment_layout(replace(manifest, tokenizer_digest="b" * 64), Name("dataset"))
    assert other.identity(root) != opening.id  # the same cells under another tokenizer are another dataset


def test_two_commitments_to_one_dataset_are_unlike(opening: DatasetOpening) -> None:
    again = commit_dataset(data(), "Archive of Haiku", PROFILE, 3)
    assert again.id != opening.id and again.seed != opening.seed


def test_nothing_is_replaced(opening: DatasetOpening, tmp_path: Path) -> None:
    secret, public = write_opening(tmp_path, opening)
    before = secret.read_bytes()
    with pytest.raises(DatasetError, match="exists already"):
        write_opening(tmp_path, commit_dataset(data(), "other", PROFILE, 3))
    secret.unlink()
    with pytest.raises(DatasetError, match="dataset.json: exists already"):
        write_opening(tmp_path, opening)
    public.unlink()
    assert write_opening(tmp_path, opening)[0].read_bytes()[:4] == before[:4]


@pytest.mark.parametrize(("arguments", "message"), [
    (("", PROFILE, 3), "--owner"), (("x" * 201, PROFILE, 3), "--owner"), (("a\nb", PROFILE, 3), "--owner"),
    (("a", "goldilocks-2^9", 3), "--profile: 'goldilocks-2.9' is no profile; valid is one of goldilocks-2.10"),
    (("a", PROFILE, 0), "--openings: 0 is not possible; valid is 1 to 4"), (("a", PROFILE, 5), "--openings: 5"),
])
def test_what_cannot_be_committed(arguments: tuple[str, str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        commit_dataset(data(), *arguments)


def altered(file: Path, **changes: Any) -> Path:
    with np.load(file) as stored:
        arrays = {key: stored[key] for key in stored.files}
    metadata = json.loads(arrays["metadata"].tobytes()) | changes.pop("metadata", {})
    arrays["metadata"] = np.frombuffer(json.dumps(metadata).encode(), dtype=np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, **(arrays | changes))
    file.write_bytes(buffer.getvalue())
    return file


@pytest.mark.parametrize("changes", [
    {"metadata": {"tokenizer_digest": "b" * 64}}, {"metadata": {"openings": 4}}, {"metadata": {"profile": "goldilocks-2^11"}},
    {"metadata": {"id": "0" * 64}}, {"seed": np.zeros(32, dtype=np.uint8)}, {"tokens": np.arange(18).reshape(3, 6) % 10},
    {"mask": np.ones((3, 5), dtype=np.int8)}, {"tokens": np.arange(12).reshape(2, 6) % 11, "mask": np.ones((2, 5), dtype=np.int8)},
])
def test_an_altered_opening_is_refused(opening: DatasetOpening, tmp_path: Path, changes: dict[str, Any]) -> None:
    secret, _ = write_opening(tmp_path, opening)
    with pytest.raises(DatasetError, match="it was altered"):
        read_opening(altered(secret, **changes))


@pytest.mark.parametrize("changes", [
    {"metadata": {"version": 2}}, {"metadata": {"openings": 400}}, {"metadata": {"openings": True}}, {"metadata": {"profile": "toy"}},
    {"metadata": {"surplus": 1}}, {"seed": np.zeros(31, dtype=np.uint8)}, {"mask": np.full((3, 5), 2)}, {"tokens": -np.ones((3, 6))},
    {"tokens": np.zeros((3, 7), dtype=np.int32)}, {"tokens": np.zeros(6, dtype=np.int32)}, {"tokens": np.array([object()])},
])
def test_an_impossible_opening_is_refused(opening: DatasetOpening, tmp_path: Path, changes: dict[str, Any]) -> None:
    secret, _ = write_opening(tmp_path, opening)
    with pytest.raises(DatasetError, match="dataset-opening.npz: (is no dataset opening|holds values)"):
        read_opening(altered(secret, **changes))


def test_every_damaged_byte_is_noticed(opening: DatasetOpening, tmp_path: Path) -> None:
    secret, _ = write_opening(tmp_path, opening)
    intact = secret.read_bytes()
    for at in range(0, len(intact), 41):
        secret.write_bytes(intact[:at] + bytes([intact[at] ^ 0x10]) + intact[at + 1 :])
        try:
            found = read_opening(secret)
        except DatasetError:
            continue
        assert (found.id, found.seed) == (opening.id, opening.seed)  # a byte of the archive that nothing depends on
    for size in (0, 10, len(intact) // 2, len(intact) - 1):
        secret.write_bytes(intact[:size])
        with pytest.raises(DatasetError, match="no dataset opening, or a damaged one"):
            read_opening(secret)
    with pytest.raises(DatasetError, match="cannot be read"):
        read_opening(tmp_path / "none.npz")
