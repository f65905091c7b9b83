"""Every scheme, and the lesser level of instructions, are opened and transcribed without torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

import exporter
from exporter.quantization.schemes import SCHEMES
from exporter.recognition.model import FamilyModel
from tests.recognition.test_light import HEAVY, SCRIPT
from tests.support.built import build_tiny
from tests.support.tiny import make_whisper
from tests.support.tiny_ctc import make_ctc, tones

SPOKEN = "decoding: {language: en, task: transcribe}\n"
TARGETS = {
    "onnx-int8": "{kind: onnx-int8}",
    "aoti": "{kind: aoti, dtype: float32}",
    "aoti for x86-64-v3": "{kind: aoti, march: x86-64-v3}",
}
CASES = [
    *(("wav2vec2", scheme, "onnx-int8") for scheme in SCHEMES),
    ("whisper", "weight-int4", "onnx-int8"),
    ("wav2vec2", "weight-int8", "aoti"),
]
MORE = [
    *(("whisper", scheme, "onnx-int8") for scheme in SCHEMES if scheme != "weight-int4"),
    *(("wav2vec2", scheme, "aoti") for scheme in SCHEMES if scheme != "weight-int8"),
    *(("whisper", scheme, "aoti") for scheme in SCHEMES),
    *((family, "dynamic-int8", "aoti for x86-64-v3") for family in ("wav2vec2", "whisper")),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "scheme", "target"),
    [*CASES, *(pytest.param(*case, marks=pytest.mark.sweep) for case in MORE)],
)
def test_it_is_transcribed_without_torch(
    tmp_path: Path, family: str, scheme: str, target: str
) -> None:
    checkpoint, clip = tmp_path / "checkpoint", tmp_path / "tones.wav"
    soundfile.write(clip, tones(1.4, 3), 16_000)
    make_whisper(checkpoint) if family == "whisper" else make_ctc(checkpoint, family)
    quantization = f"default: {scheme}"
    if scheme == "static-int8":
        recordings = tmp_path / "calibration"
        recordings.mkdir()
        rows = [json.dumps({"audio": f"{seed}.wav", "text": "a"}) for seed in range(3)]
        (recordings / "manifest.jsonl").write_text("\n".join(rows))
        for seed in range(3):
            soundfile.write(recordings / f"{seed}.wav", tones(1.0, seed), 16_000)
        quantization += ", calibration: {clips: calibration, count: 3}"
    more = f"quantization: {{{quantization}}}\n{SPOKEN if family == 'whisper' else ''}"
    (folder,) = build_tiny(tmp_path, checkpoint, f"[{TARGETS[target]}]", more).values()

    command = [sys.executable, "-c", SCRIPT, str(folder), str(clip), "{}", *HEAVY]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    text, heavy, shown = json.loads(done.stdout)
    assert heavy == []
    assert shown.startswith("<Recogniser: tiny ")
    recogniser = exporter.load(folder, threads=1)
    assert recogniser.model is not None
    assert isinstance(recogniser.opened, FamilyModel)  # the family's road, in torch
    assert recogniser.transcribe(clip).text == text
