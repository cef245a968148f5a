"""What is wrong with a run.yaml, in words: key, value, what would be valid (called by flows/config.py)."""

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from storage.errors import shown


class ConfigError(Exception):
    """A run.yaml that cannot be used; `problems` has one line for each thing that is wrong."""

    def __init__(self, path: Path, problems: list[str]) -> None:
        self.path = path
        self.problems = problems
        super().__init__("\n  ".join([f"{path} cannot be used:", *problems]))


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, keys written once only."""
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _OnceLoader)  # a SafeLoader: plain data, no objects
    except FileNotFoundError:
        raise ConfigError(path, ["there is no such file: `verilora init DIR` writes one to start from"]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(path, [f"the file cannot be read: {error}"]) from None
    except yaml.YAMLError as error:
        raise ConfigError(path, [f"the file is no valid YAML: {_fault(error)}"]) from None
    if not isinstance(data, dict):
        held = "nothing" if data is None else f"one {type(data).__name__}"
        raise ConfigError(path, [f"the file holds {held}; valid is a mapping with the keys base_model, dataset, training, …"])
    return data


def _fault(error: yaml.YAMLError) -> str:
    """What is wrong and where, without the text that stands there: the library would quote it, and it may hold a password."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return str(error)
    return f"{error.problem} (line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1})"


def describe(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One line for each error: key, value, what would be valid."""
    return [_line(detail, model) for detail in error.errors()]


def _line(detail: ErrorDetails, model: type[BaseModel]) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    parents = list(_walk(model, detail["loc"]))
    section, field = parents[-1]
    if detail["type"] == "extra_forbidden":
        name = str(detail["loc"][-1])
        close = difflib.get_close_matches(name, section.model_fields, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}? " if close else ""
        return f"{key}: unknown key (value {shown(detail['input'])}); {hint}valid keys are {', '.join(section.model_fields)}"
    valid = f"valid is {field.description}" if field is not None else ""
    if detail["type"] == "missing":
        return f"{key}: missing; {valid}"
    if detail["type"] != "value_error":
        return f"{key}: {shown(detail['input'])} is not valid; {valid}"
    reason = str(detail["ctx"]["error"])
    if reason.startswith("."):
        return (key + reason).lstrip(".")  # a rule over several keys names the one that is wrong and says what is valid
    return f"{key}: {shown(detail['input'])} {reason}; {valid}"


def _walk(model: type[BaseModel], location: tuple[int | str, ...]) -> Iterator[tuple[type[BaseModel], FieldInfo | None]]:
    """From the top: the section that each part of a location lies in, and the field that it names there."""
    section = model
    field: FieldInfo | None = None
    yield section, field
    for part in location:
        if isinstance(part, str):
            field = section.model_fields.get(part)
        yield section, field
        inner = field.annotation if field is not None else None
        candidates = [inner, *get_args(inner)]
        section = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), section)


class _OnceLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice, of which YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str) or key in seen:
                fault = "is written twice" if isinstance(key, str) else "is no plain word"
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} {fault}", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)
