"""A tokenizer's folder: tokenizer.json with its digest, bos and eos, and the vocabulary that ids must lie in.

The vocabulary is config.json's vocab_size where the folder is a model's; without config.json (whoever commits data elsewhere
has the tokenizer alone) it is the tokenizer's own. Called by prover/files/dataset.py and dataset_opening.py.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from prover.files.hf_config import read_json
from prover.files.jsonl import DatasetError


@dataclass(frozen=True)
class LoadedTokenizer:
    """`digest` is the SHA-256 of tokenizer.json's bytes; every usable id is below `vocab`."""

    tokenizer: Tokenizer
    digest: str
    vocab: int
    bos: int
    eos: int


def tokenizer_digest(folder: Path) -> str:
    """SHA-256 of the folder's tokenizer.json."""
    return hashlib.sha256(_read(folder / "tokenizer.json")).hexdigest()


def load_tokenizer(folder: Path) -> LoadedTokenizer:
    """DatasetError names the file that cannot be used."""
    file = folder / "tokenizer.json"
    content = _read(file)
    try:
        tokenizer = Tokenizer.from_str(content.decode("utf-8"))
    except Exception as error:  # tokenizers raises plain Exception for malformed files
        raise DatasetError(file, 0, f"not a usable tokenizer ({error}). Use an intact copy.") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    config = folder / "config.json"
    vocab = read_json(config).get("vocab_size") if config.exists() else max(tokenizer.get_vocab().values(), default=-1) + 1
    if type(vocab) is not int or vocab < 2:
        raise DatasetError(config, 0, f"vocab_size is {vocab!r}, not the size of a vocabulary. Use the model's own config.json.")
    bos, eos = (_special_token(folder, tokenizer, name, vocab) for name in ("bos", "eos"))
    return LoadedTokenizer(tokenizer, hashlib.sha256(content).hexdigest(), vocab, bos, eos)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise DatasetError(file, 0, "the file is missing. The tokenizer's folder needs its tokenizer.json.") from None
    except OSError as error:
        raise DatasetError(file, 0, f"cannot be read ({error.strerror}). Use an intact copy.") from error


def _special_token(folder: Path, tokenizer: Tokenizer, name: str, vocab: int) -> int:
    """The tokenizer's own token where tokenizer_config.json names one, else config.json's id."""
    file, config = folder / "tokenizer_config.json", folder / "config.json"
    token = read_json(file).get(f"{name}_token") if file.exists() else None
    if isinstance(token, dict):  # written so by older versions of transformers
        token = token.get("content")
    found = read_json(config).get(f"{name}_token_id") if token is None and config.exists() else None
    if isinstance(token, str):
        found = tokenizer.token_to_id(token)
    if type(found) is not int or not 0 <= found < vocab:
        raise DatasetError(
            file if token is not None or not config.exists() else config, 0,
            f"no usable {name} token (token {token!r}, id {found!r}). Name {name}_token in tokenizer_config.json.",
        )
    return found
