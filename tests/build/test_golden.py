"""Artifacts of every version that ever sealed one: they verify, load and speak, for ever.

A new kind of manifest, of report or of a target's files adds one here; none goes.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from exporter.artifact import report, trust
from exporter.recognition.load import load
from tests.support.golden import GOLDEN

Record = Callable[[str, object], None]
DIGESTS = {
    "v1-first": "6ab7edc24c02c503e71c09e4db8ab8ae0c263d9a686b3d88b603a93b37c0db5e",
    "v1-predicted": "6e32b52a57fd69c3bdec51f395e090c3102e1ce4987ada6ac9a57440e0aea347",
    "v1-timed": "6e32b52a57fd69c3bdec51f395e090c3102e1ce4987ada6ac9a57440e0aea347",
    "v1-onnx-int8": "60f968a81dc6afc1b0be716907bbae72bdbff8860ac0a7f215220f4ebe32d7dd",
    "v1-torch-int8": "2e49d54c7e65c0d2d0a135bf250668ed03eb2202d558840afe82aeb7a73aa29f",
}
WHOLE = ("v1-onnx-int8", "v1-torch-int8")  # the others hold no model
TIMED = {**dict.fromkeys(WHOLE), "v1-timed": 20}  # of reports; None: from before there were samples


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[str], Path]:
    """A copy of one, since a checkout may be made of links."""
    return lambda name: Path(shutil.copytree(GOLDEN / name, tmp_path / name))


@pytest.mark.parametrize("name", DIGESTS)
def test_they_verify(name: str, copied: Callable[[str], Path], record_property: Record) -> None:
    told = trust.verify_and_authorize(copied(name), trust=True)
    assert told.schema_version == 1
    assert told.digest == DIGESTS[name]
    assert (told.build.predicted is None) == (name == "v1-first")
    record_property("promise", "P16")
    record_property("cases", 1)


@pytest.mark.parametrize("name", WHOLE)
def test_they_speak(name: str, copied: Callable[[str], Path], record_property: Record) -> None:
    """What they said on the day they were judged, of the same tone."""
    folder = copied(name)
    said = json.loads((folder / report.PREDICTIONS).read_text(encoding="utf-8"))["pred_text"]
    tone = 0.1 * np.sin(np.arange(12_000, dtype=np.float32) * 0.2)
    assert load(folder).transcribe(tone, sampling_rate=16_000).text.strip() == said
    record_property("promise", "P16")
    record_property("cases", 1)


@pytest.mark.parametrize("name", TIMED)
def test_their_reports_are_read(
    name: str, copied: Callable[[str], Path], record_property: Record
) -> None:
    told = report.read(copied(name))
    assert (told.verdict, told.artifact.digest) == ("passed", DIGESTS[name])
    assert told.timed_clips == TIMED[name]
    record_property("promise", "P16")
    record_property("cases", 1)


def test_every_golden_artifact_has_its_digest_here() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == DIGESTS.keys()
