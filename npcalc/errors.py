"""What is put around errors of others, and in front of our own."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def naming(where: object) -> Iterator[None]:
    """Puts a place, such as a file or a structure of a list, in front of what is wrong there.

    Args:
        where: The place; its text is what the message begins with.

    Raises:
        ValueError: The one that the block raised, with the place in front.
    """
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def reason(error: Exception) -> str:
    """What an exception says, or its name where it says nothing."""
    return str(error) or type(error).__name__
