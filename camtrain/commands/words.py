"""What the words of a command may be: types for an argparse parser."""

import argparse


def positive(text: str) -> int:
    """A whole number of at least 1.

    >>> positive("3")
    3
    """
    return _whole(text, 1)


def count(text: str) -> int:
    """A whole number of at least 0.

    >>> count("0")
    0
    """
    return _whole(text, 0)


def positive_number(text: str) -> float:
    """A number above 0.

    >>> positive_number("0.5")
    0.5
    """
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value


def _whole(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least {least}")
    return value
