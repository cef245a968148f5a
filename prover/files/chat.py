"""Chat templates of a tokenizer: a list of messages → one text, as transformers' apply_chat_template(tokenize=False).

The template is chat_template.jinja beside tokenizer.json, or "chat_template" in tokenizer_config.json. It is a program that
came with a model, so it runs in Jinja's immutable sandbox, with the blocks, filters and functions that transformers gives
it. One is left out: strftime_now, because a dataset must not depend on the day; templates that ask for it do so with
`is defined` and have a fixed date otherwise. Called by prover/files/dataset.py.
"""

import json
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.ext import Extension
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from prover.files.hf_config import read_json

Messages = list[dict[str, Any]]


class ChatError(ValueError):
    """No template, or one that does not accept these messages; the message says why."""


class _Generation(Extension):
    """{% generation %} … {% endgeneration %} marks what an assistant wrote; here its content is rendered and nothing else."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """The compiled template with the names of the special tokens that it may write."""

    def __init__(self, source: str, special_tokens: dict[str, str]) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise
        self._special = special_tokens
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise ChatError(f"the chat template is no valid Jinja template: {error}") from None

    def render(self, messages: Messages, add_generation_prompt: bool = False) -> str:
        """The conversation as text, special tokens included."""
        try:
            return self._template.render(
                messages=messages, tools=None, documents=None, add_generation_prompt=add_generation_prompt, **self._special
            )
        except Exception as error:  # a template is a program: it may divide by zero or index past an end
            raise ChatError(f"the chat template does not accept these messages ({error})") from None


def load_template(folder: Path) -> ChatTemplate:
    """The chat template of a tokenizer's folder; ChatError if it has none."""
    file, own = folder / "tokenizer_config.json", folder / "chat_template.jinja"
    settings = read_json(file) if file.exists() else {}
    source = own.read_text(encoding="utf-8") if own.exists() else settings.get("chat_template")
    if isinstance(source, list):  # several named ones, as written by transformers
        source = next((entry.get("template") for entry in source if entry.get("name") == "default"), None)
    if not isinstance(source, str):
        raise ChatError(
            f"lines with \"messages\" need the tokenizer's chat template, and {folder} has none: add chat_template.jinja, or "
            'write the conversation as {"prompt": …, "completion": …}'
        )
    special = {key: _content(value) for key, value in settings.items() if key.endswith("_token") and _content(value)}
    return ChatTemplate(source, special)


def _content(token: Any) -> str:
    """A special token is text, or an object with its text under "content"."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else ""


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    # Jinja's own filter escapes HTML characters, transformers' does not.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)
