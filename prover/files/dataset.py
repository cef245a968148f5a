"""Reads a JSONL data set of {"text": …} lines and tokenises it with the model folder's tokenizer.json.

One example is bos + tokens + eos, right-padded with eos to T + 1 ids (T the sequence length): inputs are ids[:-1],
labels ids[1:]. The loss mask [T] is 1 where the label is a real token, the closing eos included, and 0 on padding.
Examples are never cut: a longer one is an error. Called by the run's planning and the training executor.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from prover.files.hf_model import read_config, read_json


class DatasetError(Exception):
    """A data set or tokenizer that cannot be used: file, line (from 1; 0 for the file as a whole), what to do."""

    def __init__(self, file: Path, line: int, problem: str) -> None:
        self.file, self.line, self.problem = file, line, problem
        super().__init__(f"{file}, line {line}: {problem}" if line else f"{file}: {problem}")


@dataclass(frozen=True)
class TokenisedDataset:
    """tokens int64 [E, T+1], mask int64 [E, T] of 0 and 1, SHA-256 of tokenizer.json's bytes."""

    tokens: np.ndarray
    mask: np.ndarray
    tokenizer_digest: str
    bos: int
    eos: int

    @property
    def sequence_length(self) -> int:
        return int(self.mask.shape[1])


def load_dataset(file: Path, model_folder: Path, sequence_length: int) -> TokenisedDataset:
    """Tokenises `file`; DatasetError names file and line of the first line that cannot be used."""
    if sequence_length < 1:
        raise ValueError(f"sequence_length must be at least 1, found {sequence_length}")
    file, model_folder = Path(file), Path(model_folder)
    vocab = read_config(model_folder / "config.json").vocab
    tokenizer, digest = _load_tokenizer(model_folder / "tokenizer.json")
    bos, eos = (_special_token(model_folder, tokenizer, name, vocab) for name in ("bos", "eos"))
    rows: list[list[int]] = []
    for line, text in _texts(file):
        ids = [bos, *tokenizer.encode(text, add_special_tokens=False).ids, eos]
        if len(ids) > sequence_length + 1:
            raise DatasetError(
                file, line, f"the example has {len(ids)} tokens with bos and eos, at most {sequence_length + 1} fit. "
                "Shorten the text or raise training.sequence_length.",
            )
        if max(ids) >= vocab:
            raise DatasetError(
                file, line, f"token id {max(ids)} is outside the model's vocabulary of {vocab}. "
                "Use the tokenizer.json that belongs to the model.",
            )
        rows.append(ids)
    if not rows:
        raise DatasetError(file, 0, 'the data set is empty. Give at least one line such as {"text": "An example."}')
    tokens = np.full((len(rows), sequence_length + 1), eos, dtype=np.int64)
    mask = np.zeros((len(rows), sequence_length), dtype=np.int64)
    for row, ids in enumerate(rows):
        tokens[row, : len(ids)] = ids
        mask[row, : len(ids) - 1] = 1
    return TokenisedDataset(tokens, mask, digest, bos, eos)


def _texts(file: Path) -> list[tuple[int, str]]:
    """(line number, text) of every line that is not blank."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DatasetError(file, 0, f"cannot be read ({error.strerror}). Give a JSONL file.") from error
    # Split on the newline byte alone: JSON strings may hold other characters that Python counts as line breaks.
    lines = enumerate(content.split(b"\n"), start=1)
    return [(number, _text(file, number, line)) for number, line in lines if line.strip()]


def _text(file: Path, line: int, content: bytes) -> str:
    try:
        value: Any = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DatasetError(file, line, f'not valid JSON ({error}). Each line is one object, {{"text": "…"}}.') from error
    if not isinstance(value, dict):
        raise DatasetError(file, line, f'a JSON {type(value).__name__} where an object {{"text": "…"}} is expected.')
    for key in ("prompt", "completion", "messages"):
        if key in value:
            raise DatasetError(file, line, f'the key "{key}" is not supported yet. Use lines of {{"text": "…"}}.')
    if "text" not in value:
        raise DatasetError(file, line, f'the key "text" is missing (found: {", ".join(sorted(value)) or "no keys"}).')
    text = value["text"]
    if not isinstance(text, str):
        raise DatasetError(file, line, f'"text" must be a string, found {type(text).__name__}.')
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise DatasetError(file, line, '"text" holds half of a surrogate pair, which is not a character.') from None
    return text


def _load_tokenizer(file: Path) -> tuple[Tokenizer, str]:
    try:
        content = file.read_bytes()
        tokenizer = Tokenizer.from_str(content.decode("utf-8"))
    except FileNotFoundError:
        raise DatasetError(file, 0, "the file is missing. The model folder needs its tokenizer.json.") from None
    except Exception as error:  # tokenizers raises plain Exception for malformed files
        raise DatasetError(file, 0, f"not a usable tokenizer ({error}). Use an intact copy.") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer, hashlib.sha256(content).hexdigest()


def _special_token(folder: Path, tokenizer: Tokenizer, name: str, vocab: int) -> int:
    """The tokenizer's own token where tokenizer_config.json names one, else config.json's id."""
    file = folder / "tokenizer_config.json"
    token = read_json(file).get(f"{name}_token") if file.exists() else None
    if isinstance(token, dict):  # written so by older versions of transformers
        token = token.get("content")
    found = read_json(folder / "config.json").get(f"{name}_token_id") if token is None else None
    if isinstance(token, str):
        found = tokenizer.token_to_id(token)
    if type(found) is not int or not 0 <= found < vocab:
        raise DatasetError(
            file if token is not None else folder / "config.json", 0,
            f"no usable {name} token (token {token!r}, id {found!r}). Name {name}_token in tokenizer_config.json.",
        )
    return found
