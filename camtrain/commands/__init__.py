"""Commands beside training: audit, explain, compare, film, canary."""

import argparse
from collections.abc import Callable, Sequence

from camtrain.commands import audit, canary, compare, explain, film

__all__ = ["COMMANDS", "run"]

Prepare = Callable[[argparse.ArgumentParser], None]
Act = Callable[[argparse.Namespace], int]

COMMANDS: dict[str, tuple[str, Prepare, Act]] = {
    module.__name__.rpartition(".")[2]: (module.__doc__ or "", module.prepare, module.act)
    for module in (audit, explain, compare, film, canary)
}


def run(name: str, words: Sequence[str]) -> int:
    """Run a command with the words after its name, and return the exit code.

    0: done; 3: `audit --fail-on-reliant` found a reliant class. Mistakes raise: `SystemExit(2)` in the words,
    `CamtrainError` in what they name.
    """
    text, prepare, act = COMMANDS[name]
    about, _, example = text.partition("\n\n")
    parser = argparse.ArgumentParser(
        f"camtrain {name}", description=about, epilog=example, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    prepare(parser)
    return act(parser.parse_args(list(words)))
