"""`camtrain apply`: what a person judged in a report as callbacks for the next training."""

import json
from collections.abc import Sequence
from pathlib import Path

import yaml
from rich.console import Console

from camtrain.cli.options import ApplyOptions
from camtrain.reliance.history import FAIR, SPURIOUS, Judgement, read_judgements
from camtrain.reliance.remedies import correction

HEAD = """# What a person judged: {summary}.
#   camtrain fit --config yours.yaml --config {name}
"""


def run(options: ApplyOptions) -> int:
    """Read, write, tell."""
    judgements = read_judgements(options.judgement)
    text = fragment(judgements, options.judgement.resolve(), options.out.name, detector=options.detector)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text, encoding="utf-8")
    if options.json:
        print(json.dumps({"out": str(options.out), **yaml.safe_load(text)}, indent=2))  # noqa: T201  what was asked for
        return 0
    console = Console()
    for label, words in ((SPURIOUS, _listed(judgements, SPURIOUS)), (FAIR, _listed(judgements, FAIR))):
        console.print(f"{label:<10} {words or 'nothing'}", highlight=False, markup=False, soft_wrap=True)
    console.print(text, highlight=False, markup=False, soft_wrap=True)
    console.print(f"written to {options.out}", highlight=False, markup=False, soft_wrap=True)
    return 0


def fragment(judgements: Sequence[Judgement], file: Path, name: str, *, detector: bool) -> str:
    """The configuration: the detector, which knows what is fair, and the first choice against each spurious cue.

    >>> print(fragment([Judgement("boat", "sharpness", "spurious")], Path("j.json"), "c.yaml", detector=False))
    # What a person judged: spurious: boat by sharpness.
    #   camtrain fit --config yours.yaml --config c.yaml
    trainer:
      callbacks+:
        - class_path: camtrain.callbacks.CueRandomization
          init_args: {cue: sharpness}
    <BLANKLINE>
    """
    callbacks = [f"- class_path: camtrain.callbacks.RelianceDetector\n  init_args: {{judgement: {file}}}"] * detector
    callbacks += dict.fromkeys(correction(each.cue).yaml for each in judgements if each.judgement == SPURIOUS)
    parts = [f"{kind}: {words}" for kind in (SPURIOUS, FAIR) if (words := _listed(judgements, kind))]
    lines = [line for callback in callbacks for line in callback.splitlines()]
    body = "trainer:\n  callbacks+:" + ("".join(f"\n    {line}" for line in lines) or " []")
    return HEAD.format(summary="; ".join(parts) or "nothing", name=name) + body + "\n"


def _listed(judgements: Sequence[Judgement], kind: str) -> str:
    return ", ".join(f"{each.class_name} by {each.cue}" for each in judgements if each.judgement == kind)
