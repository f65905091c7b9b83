"""The command that looks at other people's folders: what is wrong, and how to mend it."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import click

from exporter.cli.options import command
from exporter.errors import CheckpointError

if TYPE_CHECKING:
    from exporter.cli.output.terminal import Terminal
    from exporter.doctor import Diagnosis


@command
@click.argument("source", metavar="PATH_OR_ID")
def doctor(terminal: Terminal, source: str, as_json: bool) -> None:
    """Tell what is wrong with anybody's ONNX or torch speech model, and how to mend it.

    PATH_OR_ID is a folder (optimum, transformers.js, onnxruntime-genai, sherpa-onnx, a
    transformers checkpoint, an artifact), or ORG/NAME of the Hub. Nothing in it is run. Of the Hub
    come configs, tokenizer and *.onnx files, with such weights as lie inside those; all others stay
    there, and of them names and sizes are checked. Exits with 3 where there are problems.
    """
    from exporter import doctor as doctors

    with terminal.progress() as progress:
        diagnosis = doctors.examine(source, progress)
    if as_json:
        terminal.say_json(**diagnosis.as_row())
    else:
        _say(terminal, diagnosis)
    if problems := diagnosis.of("problem"):
        found = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        msg = f"{found} in {diagnosis.source}, {_counted(diagnosis)}"
        raise CheckpointError(msg)


def _say(terminal: Terminal, diagnosis: Diagnosis) -> None:
    from exporter.doctor.finding import LEVELS

    terminal.say(f"{diagnosis.source}: {diagnosis.looks_like}")
    for level in LEVELS:
        found = diagnosis.of(level)
        if found:
            terminal.say(f"\n{level}s:" if len(found) > 1 else f"\n{level}:")
        for mend, alike in groupby(found, key=lambda finding: finding.mend):
            for finding in alike:
                terminal.say(f"  {finding.where}: {finding.what}")
            terminal.say(f"    mend: {mend}")
    if not diagnosis.of("problem"):
        apart = "\n" if diagnosis.found else ""
        terminal.say(f"{apart}no problems, {_counted(diagnosis)}")


def _counted(diagnosis: Diagnosis) -> str:
    """The findings that are no problems."""
    warnings, notes = len(diagnosis.of("warning")), len(diagnosis.of("note"))
    told = f"{warnings} warning{'' if warnings == 1 else 's'}"
    return f"{told} and {notes} note{'' if notes == 1 else 's'}"
