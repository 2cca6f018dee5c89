"""`camtrain COMMAND ...`: read before anything heavy is imported, so that help and typos answer at once."""

import ast
import dataclasses
import difflib
import importlib
import inspect
import json
import re
import sys
import textwrap
import typing
import warnings
from argparse import RawDescriptionHelpFormatter
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, DefaultHelpFormatter

import camtrain
from camtrain.cli.options import COMMANDS, Options
from camtrain.errors import CamtrainError, ConfigurationError

TRAINING = {
    "fit": "Train any LightningModule on any data, with callbacks that explain, judge and correct.",
    "validate": "Validate a trained module, and write the report of it.",
    "test": "Test a trained module, and write the report of it.",
}
_OWN_WORDS = (  # of fit, validate and test, beside what the Trainer's method takes
    "config",
    "data",
    "help",
    "help_all",
    "lr_scheduler",
    "model",
    "optimizer",
    "print_config",
    "seed_everything",
    "test_after_fit",
    "trainer",
)


def main(args: Sequence[str] | None = None) -> None:
    """Run a command; `args` are the words after the program's name, by default those it was called with.

    A mistake in the words ends the program with exit code 2, one in the configuration or the data with its message and
    code 1, not with a traceback.
    """
    warnings.filterwarnings("ignore", message="`isinstance")  # between Lightning and newer torch, nobody's mistake
    words = list(sys.argv[1:] if args is None else args)
    name = words[0] if words else "--help"
    if name in ("-h", "--help"):
        print(overview())  # noqa: T201  what was asked for
    elif name == "--version":
        print(f"camtrain {camtrain.__version__}")  # noqa: T201  what was asked for
    elif name in COMMANDS:
        run(name, understood(name, words[1:]))
    elif command := next((word for word in words if word in TRAINING), None):
        train(command, words, args)
    else:
        sys.stderr.write(f"{overview()}\n\ncamtrain: {_unknown('no command', name, [*TRAINING, *COMMANDS])}\n")
        sys.exit(2)


def overview() -> str:
    """All commands, a line each.

    >>> "audit" in overview()
    True
    """
    about = {**TRAINING, **{name: (kind.__doc__ or "").partition("\n")[0] for name, kind in COMMANDS.items()}}
    rows = [f"  {name:<9} {text}" for name, text in about.items()]
    return "\n".join(
        [
            "usage: camtrain COMMAND ...",
            "",
            "See what a model looks at while it trains, catch it cheating, and teach it to look at the right thing.",
            "",
            *rows,
            "",
            "camtrain COMMAND --help tells what it takes; camtrain --version which version this is.",
        ]
    )


def run(name: str, options: Options) -> None:
    """Run a command beside training; what it returns is the exit code."""
    try:
        code = importlib.import_module(f"camtrain.cli.{name}").run(options)
    except OSError as error:
        if error.filename is None:
            raise
        sys.exit(f"{type(error).__name__}: cannot use {error.filename}: {error.strerror}. Name another path.")
    except Exception as error:
        if not isinstance(error, CamtrainError) and type(error).__name__ != "MisconfigurationException":
            raise
        sys.exit(f"{type(error).__name__}: {error}")
    if code:
        sys.exit(code)


# The words of the commands beside training: the grammar of `fit`, and that of every shell.


class _HelpFormatter(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """Leaves the lines of an example as they are."""


class _Parser(ArgumentParser):
    def format_help(self, *formatter: Any) -> str:
        text = super().format_help(*formatter).replace("<class 'Path'>", "path")
        return re.sub(r"--(?!print_config)[a-z_]+", lambda flag: flag[0].replace("_", "-"), text)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """One line that names the option, and exit code 2."""
        line = " ".join(
            re.sub(r'Parser key "([^"]+)":', r"--\1:", message).replace("required: ", "required: --").split()
        )
        line = re.sub(r"Does not validate .* Subtypes: \[(.*)\] Errors: .* Given value: (.*)", r"'\2' is no \1", line)
        line = re.sub(r"Expected a (.*)\. Got value: (.*)", r"'\2' is no \1", line)
        line = re.sub(r"<class '(?:None)?(\w+)'>", r"\1", line).replace("typing.", "").replace(", Type", "")
        line = re.sub(r"--[a-z_]+", lambda flag: flag[0].replace("_", "-"), line)
        self.exit(2, f"usage: {self.usage}\n{self.prog}: {line}\n")


def understood(name: str, words: Sequence[str]) -> Options:
    """The options that the words after a command's name give; exit code 2 where they give none."""
    kind = COMMANDS[name]
    fields = {field.name: field for field in dataclasses.fields(kind)}
    required = [n for n, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING]
    usage = [kind.positional.upper(), *(f"--{n} {n.upper()}" for n in required if n != kind.positional), "[options]"]
    about = inspect.cleandoc(kind.__doc__ or "").partition("Args:")[0].strip()
    parser = _Parser(
        f"camtrain {name}",
        usage=f"camtrain {name} {' '.join(usage)}",
        description=about,
        epilog=f"{kind.positional.upper()} needs no flag before it.\n\nexample: {kind.example}",
        formatter_class=_HelpFormatter,
    )
    parser.add_argument("--config", action="config", help="YAML file of these options.")
    parser.add_class_arguments(kind)
    parser._action_groups[-1].title = f"of {name}"  # jsonargparse's is the description once more
    try:
        given = parser.parse_args(spelled(words, typing.get_type_hints(kind), kind.positional, kind.repeatable))
        return kind(**{field: given[field] for field in fields})
    except ConfigurationError as error:
        parser.error(str(error))


def spelled(
    words: Sequence[str], hints: Mapping[str, Any], positional: str, repeatable: Sequence[str] = ()
) -> list[str]:
    """Words of a shell in the grammar of `fit`: dashes within names, flags without a value, several values, none.

    >>> hints = {"folder": str, "json": bool, "batch_size": int, "methods": tuple[str, ...]}
    >>> spelled(["photos", "--json", "--batch-size", "4", "--methods", "a", "b"], hints, "folder")
    ['--json=true', '--batch_size=4', '--methods=["a", "b"]', '--folder=photos']
    """
    rest = deque(words)
    translated: list[str] = []
    loose: list[str] = []
    repeated: dict[str, list[str]] = {}
    while rest:
        word = rest.popleft()
        flag, equals, value = word.partition("=")
        name = flag.removeprefix("--").rstrip("+").replace("-", "_")
        if not word.startswith("--"):
            (translated if word == "-h" else loose).append(word)
        elif name in ("help", "print_config"):
            translated.append(word)
        elif name != "config" and name not in hints:
            raise ConfigurationError(_unknown("no option", flag, [f"--{hint}" for hint in hints]))
        elif name in repeatable and (equals or rest):
            repeated.setdefault(name, []).append(value if equals else rest.popleft())
        elif equals:
            translated.append(f"--{name}{'+' * flag.endswith('+')}={value}")
        elif hints.get(name) is bool:
            value = rest.popleft() if rest and rest[0] in ("true", "false") else "true"
            translated.append(f"--{name}={value}")
        elif name in hints and _takes_several(hints[name]) and name not in repeatable:
            several = []
            while rest and not rest[0].startswith("--"):
                several.append(rest.popleft())
            translated.append(f"--{name}={_listed(several, hints[name])}")
        elif rest:
            translated.append(f"--{name}={rest.popleft()}")
        else:
            raise ConfigurationError(f"{flag} needs a value.")
    for name, values in repeated.items():
        translated.append(f"--{name}={values[0] if len(values) == 1 else json.dumps(values)}")
    return translated + _placed(loose, positional, hints[positional])


def _placed(loose: Sequence[str], positional: str, hint: Any) -> list[str]:
    """The words without a flag, as the option that needs none."""
    if not loose:
        return []
    if _takes_several(hint):
        return [f"--{positional}={_listed(loose, hint)}"]
    if len(loose) > 1:
        raise ConfigurationError(f"only {positional.upper()} needs no flag, and {loose[1]!r} has none either.")
    return [f"--{positional}={loose[0]}"]


def _takes_several(hint: Any) -> bool:
    return any(typing.get_origin(kind) in (list, tuple) for kind in (hint, *typing.get_args(hint)))


def _listed(values: Sequence[str], hint: Any) -> str:
    if len(values) == 1 and values[0].startswith("["):
        return values[0]
    return f"[{', '.join(values)}]" if "float" in str(hint) else json.dumps(list(values))


def _unknown(what: str, given: str, known: Sequence[str]) -> str:
    closest = difflib.get_close_matches(given, known, n=3) or difflib.get_close_matches(given, known, n=3, cutoff=0.3)
    return f"There is {what} {given!r}; closest: {', '.join(closest) or ', '.join(known)}."


# fit, validate and test: LightningCLI's, whose words are known from the source of its Trainer.


def train(command: str, words: Sequence[str], args: Sequence[str] | None) -> None:
    """Run LightningCLI, after a look at the words."""
    takes = _trainer_takes()
    if "-h" in words or "--help" in words:
        print(training_help(command, takes))  # noqa: T201  what was asked for
        return
    if mistake := _mistyped(command, words, takes):
        sys.stderr.write(f"usage: camtrain {command} --config FILE [options]\ncamtrain {command}: {mistake}\n")
        sys.exit(2)
    from camtrain.cli.lightning import command_line

    if "--help_all" in words:
        args = ["--help" if word == "--help_all" else word for word in words]
    command_line(args)


def training_help(command: str, takes: Mapping[str, Sequence[str]]) -> str:
    """What `fit`, `validate` or `test` takes, on one page.

    >>> "--config" in training_help("fit", {})
    True
    """
    after = "  --test_after_fit last|best    Test when training ends.\n" if command == "fit" else ""
    options = textwrap.fill(", ".join(takes.get("__init__", ())), 110, initial_indent="  ", subsequent_indent="  ")
    return f"""usage: camtrain {command} --config FILE [options]

{TRAINING[command]}

  --config FILE                 YAML with trainer, model and data; several are merged in their order.
  --model CLASS                 A LightningModule by its import path; --model.NAME its arguments.
  --data CLASS                  A LightningDataModule by its import path; --data.NAME its arguments.
  --trainer.NAME VALUE          Arguments of the Trainer.
  --trainer.callbacks+=CLASS    Add a callback, as camtrain.callbacks.ExplanationMonitor.
  --ckpt_path FILE|last|best    Go on from a checkpoint.
  --seed_everything SEED        Of everything that is drawn.
{after}  --print_config                Print the configuration that the words make, and stop.
  --help_all                    Every option with its type; --model.help CLASS, --data.help CLASS those of a class.

of the Trainer:
{options}

example: camtrain {command} --config configs/demo.yaml --trainer.max_epochs=2"""


def _mistyped(command: str, words: Sequence[str], takes: Mapping[str, Sequence[str]]) -> str | None:
    """What is wrong with the first word that LightningCLI would not know either."""
    if not takes:
        return None
    known = [f"--{name}" for name in (*_OWN_WORDS, *takes[command])]
    of_trainer = [f"--trainer.{name}" for name in takes["__init__"]]
    for word in words:
        flag = re.match(r"--[^=+]*", word)
        parts = flag[0].split(".") if flag else []
        if parts and parts[0] not in known:
            return _unknown("no option", parts[0], known)
        if len(parts) > 1 and parts[0] == "--trainer" and ".".join(parts[:2]) not in (*of_trainer, "--trainer.help"):
            return _unknown("no option", ".".join(parts[:2]), of_trainer)
    return None


def _trainer_takes() -> dict[str, list[str]]:
    """What Lightning's Trainer and its methods take, read without importing it; empty where it is not found."""
    package = find_spec("pytorch_lightning")
    file = Path(package.origin).parent / "trainer" / "trainer.py" if package and package.origin else Path()
    if not file.is_file():
        return {}
    return dict(_signatures(ast.parse(file.read_text(encoding="utf-8"))))


def _signatures(tree: ast.Module) -> Iterator[tuple[str, list[str]]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name in ("__init__", *TRAINING):
            arguments = [*node.args.args, *node.args.kwonlyargs]
            given = (
                "self",
                "model",
                "datamodule",
                "dataloaders",
                "train_dataloaders",
                "val_dataloaders",
            )  # by the words
            yield node.name, [each.arg for each in arguments if each.arg not in given]
