"""What a long piece of work says of itself to whoever waits for it: one line of text whenever it comes to something else.

Called by what takes minutes on a large model: planning, calibration, commitments.
"""

from collections.abc import Callable

Tell = Callable[[str], None]


def silent(doing: str) -> None:
    """Nobody waits."""
