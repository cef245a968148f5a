"""Chat templates: the text is transformers' own, the answer alone is learnt, and what a template cannot do is said by line."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from prover.files.chat import ChatError, ChatTemplate, load_template
from prover.files.dataset import DatasetError, load_dataset

CHATML = """{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\n' + message['content'] | trim + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""
LLAMA2 = """{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system = messages[0].content %}
{% else %}{% set loop_messages = messages %}{% set system = false %}{% endif %}
{% for message in loop_messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate user/assistant') }}{% endif %}
{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + (('<<SYS>>' + system + '<</SYS>>') if system and loop.first else '') }}
{{- message['content'] + ' [/INST]' }}
{% else %}{% generation %}{{ ' ' + message['content'] + ' ' + eos_token }}{% endgeneration %}{% endif %}
{% endfor %}"""
LLAMA3 = """{{- bos_token }}{%- if not date_string is defined %}{%- if strftime_now is defined %}
{%- set date_string = strftime_now("%d %b %Y") %}
{%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}{%- endif %}
{%- set ns = namespace(n=0) %}
{{- "Today: " + date_string + "\n" }}
{%- for message in messages %}{%- if message.role == "tool" %}{%- continue %}{%- endif %}{% set ns.n = ns.n + 1 %}
{{- '[' + message['role'] + '] ' + {"n": ns.n, "text": message.content} | tojson + '\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '[assistant] ' }}{%- endif %}"""
CHAT = [
    {"role": "system", "content": "Be <brief> & kind."}, {"role": "user", "content": "  Häiku? "},
    {"role": "assistant", "content": "old pond"},
]


@pytest.fixture
def model(examples: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(examples / "tiny-llama", tmp_path / "model"))


def lines(folder: Path, *values: object) -> Path:
    file = folder / "chat.jsonl"
    file.write_text("".join(json.dumps(value) + "\n" for value in values))
    return file


@pytest.mark.parametrize("source", [CHATML, LLAMA2])
@pytest.mark.parametrize("prompt", [False, True])
def test_as_transformers_writes_it(model: Path, source: str, prompt: bool) -> None:
    (model / "chat_template.jinja").write_text(source)
    chat = CHAT[:2] if prompt else CHAT
    theirs = AutoTokenizer.from_pretrained(model).apply_chat_template(chat, tokenize=False, add_generation_prompt=prompt)
    assert load_template(model).render(chat, add_generation_prompt=prompt) == theirs


def test_a_template_that_asks_for_the_day_gets_its_own_date() -> None:
    text = ChatTemplate(LLAMA3, {"bos_token": "<s>"}).render(CHAT)
    assert text.startswith("<s>Today: 26 Jul 2024\n[system] ")
    assert '{"n": 1, "text": "Be <brief> & kind."}' in text and "Häiku" in text  # json as it is, not escaped for HTML


@pytest.mark.parametrize("where", ["file", "settings", "list"])
def test_where_the_template_is(model: Path, where: str) -> None:
    settings = json.loads((model / "tokenizer_config.json").read_text())
    if where == "file":
        (model / "chat_template.jinja").write_text(CHATML)
    else:
        settings["chat_template"] = CHATML if where == "settings" else [
            {"name": "tool_use", "template": "x"}, {"name": "default", "template": CHATML}]
        (model / "tokenizer_config.json").write_text(json.dumps(settings))
    assert load_template(model).render(CHAT).endswith("<|im_start|>assistant\nold pond<|im_end|>\n")


def test_the_last_answer_alone_is_learnt(model: Path, tmp_path: Path) -> None:
    (model / "chat_template.jinja").write_text(CHATML)
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "first"}, {"role": "user", "content": "b"},
            {"role": "assistant", "content": "second"}]
    data = load_dataset(lines(tmp_path, {"messages": chat}), model, 200)
    tokenizer = AutoTokenizer.from_pretrained(model)
    ids = tokenizer.apply_chat_template(chat, tokenize=True, return_dict=False)
    assert data.tokens[0, : len(ids)].tolist() == ids  # no bos, no eos but the template's
    assert tokenizer.decode(data.tokens[0, 1:][data.mask[0] == 1]) == "second<|im_end|>\n"


@pytest.mark.parametrize(("value", "message"), [
    ({"messages": CHAT[:1]}, "a list of at least two"),
    ({"messages": CHAT[:2]}, 'the last message is of role "user"'),
    ({"messages": CHAT, "tools": []}, 'the key "tools" is not supported'),
    ({"messages": [*CHAT[:2], {"role": "assistant", "content": None}]}, '"content" of message 3 must be a string'),
    ({"messages": [*CHAT[:2], {"role": "assistant", "content": "a", "tool_calls": []}]}, "message 3 must have the keys"),
    ({"messages": ["a", "b"]}, "message 1 must have the keys"),
    ({"messages": [CHAT[1], CHAT[1], CHAT[2]]}, "roles must alternate"),
])
def test_bad_conversation_is_named(model: Path, tmp_path: Path, value: object, message: str) -> None:
    (model / "chat_template.jinja").write_text(LLAMA2)
    good = {"messages": CHAT[1:]}
    with pytest.raises(DatasetError, match=f"chat.jsonl, line 2: .*{message}"):
        load_dataset(lines(tmp_path, good, value), model, 200)


@pytest.mark.parametrize(("source", "message"), [
    (None, "needs? the tokenizer's chat template"),
    ("{% for %}", "no valid Jinja template"),
    ("{{ messages[0].content.__class__.__mro__ }}", "does not accept these messages .*unsafe"),
    ("{{ 1 // 0 }}", "does not accept these messages .*zero"),
    ("{{ messages | length }}{% if add_generation_prompt %}?{% endif %}", "it is not clear what is to be learnt"),
    ("{{ messages[0].content }}", "nothing is left to learn"),
])
def test_bad_template(model: Path, tmp_path: Path, source: str | None, message: str) -> None:
    if source is not None:
        (model / "chat_template.jinja").write_text(source)
    with pytest.raises(DatasetError, match=f"chat.jsonl, line 1: .*{message}"):
        load_dataset(lines(tmp_path, {"messages": CHAT}), model, 200)


def test_templates_cannot_change_what_they_are_given() -> None:
    with pytest.raises(ChatError):
        ChatTemplate("{{ messages.append(1) }}", {}).render([dict(m) for m in CHAT])
