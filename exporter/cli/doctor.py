"""The doctor command: find faults in exported models, and name the fix of each."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import click

from exporter.cli.options import command
from exporter.errors import CheckpointError

if TYPE_CHECKING:
    from exporter.cli.output.terminal import Terminal
    from exporter.doctor import Diagnosis


@command("models/whisper-onnx", "onnx-community/whisper-tiny", extra="build")
@click.argument("source", metavar="PATH_OR_ID")
def doctor(terminal: Terminal, source: str, as_json: bool) -> None:
    """Find faults in an ONNX or torch speech model, with fixes.

    PATH_OR_ID is a folder (of optimum, transformers.js, onnxruntime-genai or sherpa-onnx, a
    transformers checkpoint, an artifact), or ORG/NAME on the Hub. Nothing in it is run. From the
    Hub, only configs, tokenizer and .onnx files are downloaded; other files are checked by name
    and size. Exits with 3 where there are problems.
    """
    from exporter import doctor as doctors

    with terminal.progress() as progress:
        diagnosis = doctors.examine(source, progress)
    if as_json:
        terminal.say_json(**diagnosis.as_row())
    else:
        _say(terminal, diagnosis)
    if problems := diagnosis.of("problem"):
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        msg = f"{count} in {diagnosis.source}, {_counted(diagnosis)}"
        raise CheckpointError(msg)


def _say(terminal: Terminal, diagnosis: Diagnosis) -> None:
    from exporter.doctor.finding import LEVELS

    terminal.say_wrapped(f"{diagnosis.source}: {diagnosis.looks_like}")
    for level in LEVELS:
        findings = diagnosis.of(level)
        if findings:
            terminal.say("", f"{level}s:" if len(findings) > 1 else f"{level}:")
        for fix, alike in groupby(findings, key=lambda finding: finding.fix):
            for finding in alike:
                terminal.say_wrapped(f"  {finding.where}: {finding.what}", indent="    ")
            terminal.say_wrapped(f"    fix: {fix}", indent="      ")
    if not diagnosis.of("problem"):
        apart = [""] if diagnosis.found else []
        terminal.say(*apart, f"no problems, {_counted(diagnosis)}")


def _counted(diagnosis: Diagnosis) -> str:
    """Count the findings that are not problems."""
    warnings, notes = len(diagnosis.of("warning")), len(diagnosis.of("note"))
    return (
        f"{warnings} warning{'' if warnings == 1 else 's'} "
        f"and {notes} note{'' if notes == 1 else 's'}"
    )
