"""Tokenised examples: layout, mask, limits, and an error with file and line for every bad line."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from prover.files.dataset import DatasetError, load_dataset


@pytest.fixture
def model(examples: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(examples / "tiny-llama", tmp_path / "model"))


def write(folder: Path, *lines: str | bytes) -> Path:
    file = folder / "data.jsonl"
    file.write_bytes(b"".join((line.encode() if isinstance(line, str) else line) + b"\n" for line in lines))
    return file


def test_layout_and_mask(model: Path, tmp_path: Path) -> None:
    texts = ["The old fox", "", 'grün\u2028 "x"']
    data = load_dataset(write(tmp_path, *(json.dumps({"text": t}, ensure_ascii=False) for t in texts), "  "), model, 20)
    content = (model / "tokenizer.json").read_bytes()
    assert data.tokenizer_digest == hashlib.sha256(content).hexdigest() and (data.bos, data.eos) == (0, 1)
    assert data.tokens.shape == (3, 21) and data.mask.shape == (3, 20) and data.sequence_length == 20
    assert data.tokens.dtype == data.mask.dtype == np.int64
    tokenizer = Tokenizer.from_str(content.decode())
    for row, text in enumerate(texts):
        ids = [0, *tokenizer.encode(text).ids, 1]
        assert data.tokens[row].tolist() == ids + [1] * (21 - len(ids))
        assert data.mask[row].tolist() == [1] * (len(ids) - 1) + [0] * (21 - len(ids))
    assert tokenizer.decode(data.tokens[2][: int(data.mask[2].sum()) + 1].tolist()) == texts[2]


def test_longest_example_fits_exactly(model: Path, tmp_path: Path) -> None:
    file = write(tmp_path, '{"text": "ok"}', '{"text": "' + "#" * 19 + '"}')
    data = load_dataset(file, model, 20)
    assert data.mask[1].all() and data.tokens[1, -1] == 1
    with pytest.raises(DatasetError, match=r"data.jsonl, line 2: the example has 21 tokens.*at most 20"):
        load_dataset(file, model, 19)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": ', "not valid JSON"),
        (b'{"text": "\xff"}', "not valid JSON"),
        ('["text"]', "JSON list"),
        ('{"txt": "a"}', '"text" is missing .found: txt'),
        ('{"text": 3}', '"text" must be a string, found int'),
        ('{"text": null}', '"text" must be a string, found NoneType'),
        ('{"prompt": "a", "completion": "b"}', '"prompt" is not supported'),
        ('{"text": "\\ud800"}', "surrogate"),
    ],
)
def test_bad_line_is_named(model: Path, tmp_path: Path, line: str | bytes, message: str) -> None:
    with pytest.raises(DatasetError, match=f"data.jsonl, line 3: .*{message}") as caught:
        load_dataset(write(tmp_path, '{"text": "a"}', "", line), model, 20)
    assert caught.value.line == 3


def test_empty_missing_and_foreign_files(model: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="empty"):
        load_dataset(write(tmp_path, ""), model, 20)
    with pytest.raises(DatasetError, match="none.jsonl: cannot be read"):
        load_dataset(tmp_path / "none.jsonl", model, 20)
    file = write(tmp_path, '{"text": "a"}', '{"text": "the the"}')
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"vocab_size": 260}))
    with pytest.raises(DatasetError, match="line 2: token id .* vocabulary of 260"):
        load_dataset(file, model, 20)
    (model / "tokenizer.json").write_text("{}")
    with pytest.raises(DatasetError, match="not a usable tokenizer"):
        load_dataset(file, model, 20)
    (model / "tokenizer.json").unlink()
    with pytest.raises(DatasetError, match="tokenizer.json: the file is missing"):
        load_dataset(file, model, 20)


def test_special_tokens(model: Path, tmp_path: Path) -> None:
    file = write(tmp_path, '{"text": "a"}')
    (model / "tokenizer_config.json").write_text('{"bos_token": {"content": "</s>"}, "eos_token": "<s>"}')
    data = load_dataset(file, model, 5)
    assert (data.bos, data.eos) == (1, 0)
    (model / "tokenizer_config.json").unlink()
    data = load_dataset(file, model, 5)
    assert (data.bos, data.eos) == (0, 1)
    (model / "tokenizer_config.json").write_text('{"eos_token": "<end>"}')
    with pytest.raises(DatasetError, match="no usable eos token"):
        load_dataset(file, model, 5)
