"""A rejection says where, what was expected and what was found, as far as each is known."""

import pytest

from protocol.errors import VerificationError


@pytest.mark.parametrize(
    ("arguments", "text"),
    [(("why", "", "", ""), "why"), (("why", "here", "", ""), "why at here"), (("why", "here", "a", "b"), "why at here: expected a, got b"),
     (("why", "", "a", "b"), "why: expected a, got b"), (("why", "here", "a", ""), "why at here: expected a, got ?"),
     (("why", "here", "", "b"), "why at here: expected ?, got b")],
)
def test_text(arguments: tuple[str, str, str, str], text: str) -> None:
    error = VerificationError(*arguments)
    assert str(error) == text and error.args == arguments
    assert (error.reason, error.where, error.expected, error.actual) == arguments


def test_expected_and_actual_may_be_absent() -> None:
    assert str(VerificationError("why", "here")) == "why at here"
