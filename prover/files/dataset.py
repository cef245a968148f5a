"""A JSON Lines data set as token ids and a loss mask: tokens [E, T+1], mask [E, T] (T the sequence length).

    inputs ids[:-1], labels ids[1:];   mask 1 where the label is to be learnt, 0 on prompts and padding

* text, prompt + completion: bos, the tokens of the text, eos. Messages: the tokens of what the chat template wrote, nothing
  added (templates write their own bos and end of turn), as transformers' apply_chat_template.
* A document is tokenised as a whole. Learnt are its tokens that hold a character behind the prompt, and the eos after it;
  never bos, never the prompt, never padding.
* Without packing a document is a row, right-padded with eos; a longer one is an error, nothing is cut off.
* Packing: documents one after another, cut into rows of T + 1, the last one padded; rows in which nothing is learnt are left
  out. Attention sees the documents before it in its row (no cross-document mask).

Padding follows whatever is learnt in its row and attention is causal, so it changes neither losses nor gradients. Called by
the run's planning, by `verilora dataset commit` and the training executor.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prover.files.chat import load_template
from prover.files.jsonl import DatasetError, Document, read_documents
from prover.files.tokenizer import LoadedTokenizer, load_tokenizer

__all__ = ["DatasetError", "TokenisedDataset", "load_dataset"]
_BATCH = 1024


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


@dataclass(frozen=True)
class _Ids:
    """A document's ids, and which of them are learnt."""

    line: int
    ids: list[int]
    learnt: list[bool]


def load_dataset(
    file: Path, tokenizer_folder: Path, sequence_length: int, kind: str = "auto", packing: bool = False
) -> TokenisedDataset:
    """Tokenises `file`; DatasetError names file and line of the first line that cannot be used. `kind`: prover/files/jsonl.py."""
    if sequence_length < 1:
        raise ValueError(f"sequence_length must be at least 1, found {sequence_length}")
    file, folder = Path(file), Path(tokenizer_folder)
    found = load_tokenizer(folder)
    documents = list(_tokenise(file, found, read_documents(file, kind, lambda: load_template(folder))))
    rows = _packed(documents, sequence_length + 1) if packing else [_row(file, d, sequence_length + 1) for d in documents]
    if not rows:
        raise DatasetError(file, 0, "no row has a token to learn. Raise training.sequence_length or shorten the prompts.")
    tokens = np.full((len(rows), sequence_length + 1), found.eos, dtype=np.int64)
    mask = np.zeros((len(rows), sequence_length), dtype=np.int64)
    for n, row in enumerate(rows):
        tokens[n, : len(row.ids)] = row.ids
        mask[n, : len(row.ids) - 1] = row.learnt[1:]
    return TokenisedDataset(tokens, mask, found.digest, found.bos, found.eos)


def _tokenise(file: Path, found: LoadedTokenizer, documents: list[Document]) -> Iterator[_Ids]:
    for start in range(0, len(documents), _BATCH):
        some = documents[start : start + _BATCH]
        for document, encoded in zip(some, found.tokenizer.encode_batch([d.text for d in some], add_special_tokens=False), strict=True):
            ids, learnt = list(encoded.ids), [end > document.prompt for _, end in encoded.offsets]
            if document.framed:
                ids, learnt = [found.bos, *ids, found.eos], [False, *learnt, True]
            if max(ids, default=0) >= found.vocab:
                raise DatasetError(
                    file, document.line, f"token id {max(ids)} is outside the model's vocabulary of {found.vocab}. "
                    "Use the tokenizer.json that belongs to the model.",
                )
            if not any(learnt[1:]):
                raise DatasetError(file, document.line, "nothing is left to learn behind the prompt. Give an answer, or remove the line.")
            yield _Ids(document.line, ids, learnt)


def _row(file: Path, document: _Ids, width: int) -> _Ids:
    if len(document.ids) > width:
        raise DatasetError(
            file, document.line, f"the example has {len(document.ids)} tokens, special ones included; at most {width} fit. "
            "Shorten the text, raise training.sequence_length, or set data.packing: true.",
        )
    return document


def _packed(documents: list[_Ids], width: int) -> list[_Ids]:
    ids = [x for d in documents for x in d.ids]
    learnt = [x for d in documents for x in d.learnt]
    rows = [_Ids(0, ids[k : k + width], learnt[k : k + width]) for k in range(0, len(ids), width)]
    return [row for row in rows if any(row.learnt[1:])]
