"""What has a canonical encoding and what has none (known answers: tests/vectors/encoding.json)."""

import pytest

from protocol.encoding import canonical_json


@pytest.mark.parametrize(("value", "where"), [
    ({1: "a"}, r"\$: key 1 is not a string"), ({"a": {None: 1}}, r"\$.a: key None"), ([1, 2.0], r"\$\[1\]: float"),
    ({"a": [{"b": b""}]}, r"\$.a\[0\].b: bytes"), (None, r"\$: NoneType"),
])
def test_what_has_no_encoding_is_named(value: object, where: str) -> None:
    with pytest.raises(TypeError, match=where):
        canonical_json(value)


def test_what_has_one() -> None:
    assert canonical_json({"b": [1, True, "é"], "a": ()}) == '{"a":[],"b":[1,true,"é"]}'.encode()
