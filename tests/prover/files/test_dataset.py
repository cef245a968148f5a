"""Tokenised examples: layout, mask, limits, and an error with file and line for every bad line."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from prover.files.dataset import DatasetError, TokenisedDataset, load_dataset


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
        ('{"txt": "a"}', "no text .found: txt"),
        ('{"text": "a", "prompt": "b"}', "keys of two formats .found: prompt, text"),
        ('{"text": 3}', '"text" must be a string, found int'),
        ('{"text": null}', '"text" must be a string, found NoneType'),
        ('{"prompt": "a", "completion": "b"}', r'this line is ."prompt", "completion".*line 1 is ."text".*split it'),
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


def learnt(data: TokenisedDataset, row: int, tokenizer: Tokenizer) -> str:
    """The text of the labels that are learnt in a row."""
    ids = data.tokens[row, 1:][data.mask[row] == 1]
    return str(tokenizer.decode(ids.tolist(), skip_special_tokens=False))


@pytest.fixture
def tokenizer(model: Path) -> Tokenizer:
    return Tokenizer.from_str((model / "tokenizer.json").read_text())


def jsonl(folder: Path, *values: object) -> Path:
    return write(folder, *(json.dumps(value) for value in values))


def test_prompts_are_context_only(model: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    file = jsonl(tmp_path, {"prompt": "Who? ", "completion": "The frog.", "id": 7}, {"prompt": "", "completion": "Splash"},
                 {"prompt": "Say nothing", "completion": ""})
    data = load_dataset(file, model, 30)
    assert [learnt(data, k, tokenizer) for k in range(3)] == ["The frog.</s>", "Splash</s>", "</s>"]
    whole = load_dataset(jsonl(tmp_path, {"text": "Who? The frog."}), model, 30)
    assert (whole.tokens[0] == data.tokens[0]).all()  # one text, tokenised as a whole; bos and eos as in the text format
    assert whole.mask[0].sum() > data.mask[0].sum() and data.tokens[0, 0] == data.bos


def test_a_token_over_the_boundary_is_learnt(model: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    pair = next(t for t in (tokenizer.id_to_token(k) for k in range(258, 288)) if len(t) == 2 and t.isascii())
    data = load_dataset(jsonl(tmp_path, {"prompt": pair[0], "completion": pair[1]}), model, 4)
    assert data.tokens[0].tolist()[1] == tokenizer.token_to_id(pair) and data.mask[0].tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize(("value", "message"), [
    ({"prompt": "a"}, 'the key "completion" is missing'),
    ({"prompt": ["a"], "completion": "b"}, '"prompt" must be a string, found list'),
    ({"prompt": "a", "completion": None}, '"completion" must be a string, found NoneType'),
    ({"prompt": "a\udc00", "completion": "b"}, '"prompt" holds half of a surrogate pair'),
    ({"text": "a"}, "this line is"),
    ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "this line is"),
])
def test_bad_pair_is_named(model: Path, tmp_path: Path, value: object, message: str) -> None:
    with pytest.raises(DatasetError, match=f"data.jsonl, line 2: {message}"):
        load_dataset(jsonl(tmp_path, {"prompt": "a", "completion": "b"}, value), model, 20)


def test_a_format_may_be_demanded(model: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="line 1: .*data.format is prompt_completion"):
        load_dataset(jsonl(tmp_path, {"text": "a"}), model, 20, "prompt_completion")


def test_packing_cuts_the_stream_into_rows(model: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    texts = ["old pond", "a frog jumps into the silent water", "x"]
    data = load_dataset(jsonl(tmp_path, *({"text": t} for t in texts)), model, 7, packing=True)
    stream = [i for t in texts for i in (data.bos, *tokenizer.encode(t).ids, data.eos)]
    rows = -(-len(stream) // 8)
    assert len(stream) % 8 and data.tokens.shape == (rows, 8)
    assert data.tokens.reshape(-1)[: len(stream)].tolist() == stream
    starts = {n for n, i in enumerate(stream) if i == data.bos}
    for n in range(rows * 8):
        if n % 8:  # the first token of a row is no label; bos and padding are not learnt
            assert data.mask[n // 8, n % 8 - 1] == (n < len(stream) and n not in starts)
    with pytest.raises(DatasetError, match="line 1: .*data.packing: true"):
        load_dataset(jsonl(tmp_path, *({"text": t} for t in texts)), model, 7)


def test_packed_rows_without_anything_to_learn_are_left_out(model: Path, tmp_path: Path) -> None:
    data = load_dataset(jsonl(tmp_path, {"prompt": "#" * 40, "completion": "ok"}), model, 9, packing=True)
    assert len(data.tokens) == 1 and data.mask.any(axis=1).all()


def test_the_folder_of_a_tokenizer_alone(model: Path, tmp_path: Path) -> None:
    (model / "config.json").unlink()
    (model / "model.safetensors").unlink()
    assert load_dataset(jsonl(tmp_path, {"text": "a"}), model, 5).tokens[0, 0] == 0
    (model / "tokenizer_config.json").unlink()
    with pytest.raises(DatasetError, match="tokenizer_config.json: no usable bos token"):
        load_dataset(jsonl(tmp_path, {"text": "a"}), model, 5)
