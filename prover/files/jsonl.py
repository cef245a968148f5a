"""Documents of a JSON Lines file, in one of three formats; a file holds one format only.

    {"text": …}                        all of it is learnt
    {"prompt": …, "completion": …}     text prompt + completion, the completion is learnt
    {"messages": [{"role", "content"}, …]}   text by the tokenizer's chat template, the last message (the assistant's) is learnt:
                                       template(all) must begin with template(all but the last, add_generation_prompt=True)

Keys beside a format's own ("id", "source" …) are ignored, except those that would change the text. Every error names file and
line and says what to do. Called by prover/files/dataset.py.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prover.files.chat import ChatError, ChatTemplate

FORMATS = {"text": ("text",), "prompt_completion": ("prompt", "completion"), "messages": ("messages",)}
_EXAMPLE = '{"text": "…"}, {"prompt": "…", "completion": "…"} or {"messages": […]}'
_UNSUPPORTED = ("tools", "documents", "chat_template", "images")  # they would change what a template writes


class DatasetError(Exception):
    """A data set or tokenizer that cannot be used: file, line (from 1; 0 for the file as a whole), what to do."""

    def __init__(self, file: Path, line: int, problem: str) -> None:
        self.file, self.line, self.problem = file, line, problem
        super().__init__(f"{file}, line {line}: {problem}" if line else f"{file}: {problem}")


@dataclass(frozen=True)
class Document:
    """One line's text. Its first `prompt` characters are context only (−1: there is no prompt); `framed` documents get bos and
    eos around them, others carry what their chat template wrote."""

    line: int
    text: str
    prompt: int
    framed: bool


def read_documents(file: Path, wanted: str, template: Callable[[], ChatTemplate]) -> list[Document]:
    """Every line that is not blank. `wanted` is a format or "auto", which takes that of the first line; `template` is asked for
    only by a file with messages."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DatasetError(file, 0, f"cannot be read ({error.strerror}). Give a JSON Lines file.") from error
    reader, found = _Reader(file, template), []
    first, kind = 0, wanted
    # Split on the newline byte alone: JSON strings may hold other characters that Python counts as line breaks.
    for line, part in enumerate(content.split(b"\n"), start=1):
        if not part.strip():
            continue
        value = reader.parse(line, part)
        actual = reader.kind(line, value)
        if kind == "auto":
            first, kind = line, actual
        if actual != kind:
            other = f"data.format is {wanted}" if wanted != "auto" else f"line {first} is {_shown(kind)}"
            raise DatasetError(file, line, f"this line is {_shown(actual)}, but {other}. A file holds one format: split it in two.")
        found.append(reader.document(line, actual, value))
    if not found:
        raise DatasetError(file, 0, f"the data set is empty. Give at least one line: {_EXAMPLE}.")
    return found


def _shown(kind: str) -> str:
    return "{" + ", ".join(f'"{key}"' for key in FORMATS[kind]) + "}"


class _Reader:
    def __init__(self, file: Path, template: Callable[[], ChatTemplate]) -> None:
        self.file, self._load, self._template = file, template, None

    def fail(self, line: int, problem: str) -> DatasetError:
        return DatasetError(self.file, line, problem)

    def parse(self, line: int, content: bytes) -> dict[str, Any]:
        try:
            value: Any = json.loads(content.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise self.fail(line, f"not valid JSON ({error}). Each line is one object: {_EXAMPLE}.") from error
        if not isinstance(value, dict):
            raise self.fail(line, f"a JSON {type(value).__name__} where an object is expected: {_EXAMPLE}.")
        return value

    def kind(self, line: int, value: dict[str, Any]) -> str:
        kinds = [name for name, keys in FORMATS.items() if any(key in value for key in keys)]
        if len(kinds) != 1:
            keys = ", ".join(sorted(value)) or "no keys"
            what = "the keys of two formats" if kinds else "no text"
            raise self.fail(line, f"{what} (found: {keys}). Each line is one object: {_EXAMPLE}.")
        return kinds[0]

    def document(self, line: int, kind: str, value: dict[str, Any]) -> Document:
        if kind == "messages":
            return self.conversation(line, value)
        for key in FORMATS[kind]:
            if key not in value:
                raise self.fail(line, f'the key "{key}" is missing. A line of this format is {_shown(kind)}.')
            self.text(line, f'"{key}"', value[key])
        if kind == "text":
            return Document(line, value["text"], -1, True)
        return Document(line, value["prompt"] + value["completion"], len(value["prompt"]), True)

    def conversation(self, line: int, value: dict[str, Any]) -> Document:
        for key in _UNSUPPORTED:
            if key in value:
                raise self.fail(line, f'the key "{key}" is not supported beside "messages". Remove it from this line.')
        messages = value["messages"]
        if not isinstance(messages, list) or len(messages) < 2:
            raise self.fail(line, '"messages" must be a list of at least two: what is asked, and the assistant\'s answer.')
        for number, message in enumerate(messages, start=1):
            if not isinstance(message, dict) or set(message) != {"role", "content"}:
                keys = ", ".join(sorted(message)) if isinstance(message, dict) else type(message).__name__
                raise self.fail(line, f'message {number} must have the keys "role" and "content" alone (found: {keys}).')
            for key in ("role", "content"):
                self.text(line, f'"{key}" of message {number}', message[key])
        if messages[-1]["role"] != "assistant":
            raise self.fail(line, f'the last message is of role "{messages[-1]["role"]}". It must be the assistant\'s, which is learnt.')
        try:
            if self._template is None:
                self._template = self._load()
            prompt, text = self._template.render(messages[:-1], add_generation_prompt=True), self._template.render(messages)
        except ChatError as error:
            raise self.fail(line, f"{error}.") from error
        if not text.startswith(prompt):
            raise self.fail(
                line, "the chat template writes the earlier messages differently when the last one follows, so it is not clear what "
                'is to be learnt. Write this conversation as {"prompt": …, "completion": …}.',
            )
        return Document(line, text, len(prompt), False)

    def text(self, line: int, what: str, value: object) -> None:
        if not isinstance(value, str):
            raise self.fail(line, f"{what} must be a string, found {type(value).__name__}.")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise self.fail(line, f"{what} holds half of a surrogate pair, which is not a character.") from None
