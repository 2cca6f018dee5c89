"""griffe: examples in docstrings are shown as code; without a heading they would become quotations."""

from collections.abc import Iterator
from typing import Any

from griffe import Extension, Object


class Examples(Extension):
    """Fences every run of `>>>` lines, with what they print, up to the next empty line."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    """The text of a docstring with its examples in fences.

    >>> print(fenced("It adds.\\n\\n>>> 1 + 1\\n2\\n"))
    It adds.
    <BLANKLINE>
    ```pycon
    >>> 1 + 1
    2
    ```
    """
    return "\n".join(_lines(text))


def _lines(text: str) -> Iterator[str]:
    indent: str | None = None  # of the example that is open
    for line in text.splitlines():
        stripped = line.lstrip()
        if indent is None and stripped.startswith(">>> "):
            indent = line[: len(line) - len(stripped)]
            yield f"{indent}```pycon"
        elif indent is not None and not stripped:
            yield f"{indent}```"
            indent = None
        yield line
    if indent is not None:
        yield f"{indent}```"
