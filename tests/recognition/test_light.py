"""onnx-int8 and aoti are opened and transcribed without torch: by onnxruntime, or by ctypes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import exporter
from exporter import recipe
from exporter.artifact import store
from exporter.build.pipeline import build
from exporter.errors import IntegrityError
from exporter.recognition import light
from exporter.recognition.model import FamilyModel
from tests.support.in_process import steps_in_process
from tests.support.tiny import make_whisper
from tests.support.tiny_ctc import make_ctc, tones

HEAVY = (
    "torch",
    "transformers",
    "safetensors",
    "pydantic",
    "onnx",
    "huggingface_hub",
    "optimum",
    "ruamel",
)
RECIPE = """\
name: light
checkpoint: checkpoint
targets: TARGETS
quantization: {default: dynamic-int8}
"""
KINDS = ("wav2vec2", "wav2vec2-bert", "whisper")
COMPILED = {"wav2vec2": "wav2vec2 aoti", "whisper": "whisper aoti"}
ARTIFACTS = (*KINDS, *COMPILED.values())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An onnx-int8 artifact of each of `KINDS`, and aoti's of `COMPILED`."""
    folders: dict[str, Path] = {}
    for kind in KINDS:
        place = tmp_path_factory.mktemp(kind)
        both = "[{kind: onnx-int8}, {kind: aoti}]" if kind in COMPILED else "[{kind: onnx-int8}]"
        text = RECIPE.replace("TARGETS", both)
        if kind == "whisper":
            make_whisper(place / "checkpoint")
            text += "decoding: {language: en, task: transcribe}\n"
        else:
            make_ctc(place / "checkpoint", kind)
        (place / "light.yaml").write_text(text)
        with steps_in_process():
            wanted = recipe.read(place / "light.yaml")
            made = build(wanted, output=place / "artifacts", progress=lambda *_: None)
        folders |= {
            COMPILED[kind] if each.manifest.kind == "aoti" else kind: each.path for each in made
        }
    return folders


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "tones.wav"
    soundfile.write(path, tones(1.4, 3), 16_000)
    return path


SCRIPT = """
import json, sys
import exporter
recogniser = exporter.load(sys.argv[1], threads=1)
transcript = recogniser.transcribe(sys.argv[2], **json.loads(sys.argv[3]))
heavy = sorted({name.partition(".")[0] for name in sys.modules} & set(sys.argv[4:]))
print(json.dumps([transcript.text, heavy, repr(recogniser)]))
"""


@pytest.mark.parametrize("kind", ARTIFACTS)
def test_nothing_heavy_is_imported(built: dict[str, Path], clip: Path, kind: str) -> None:
    options: dict[str, Any]
    options = {"num_beams": 2} if kind.startswith("whisper") else {"chunk_length_s": 1.0}
    command = [sys.executable, "-c", SCRIPT, str(built[kind]), str(clip), json.dumps(options)]
    done = subprocess.run([*command, *HEAVY], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    text, heavy, shown = json.loads(done.stdout)
    assert heavy == []
    assert shown.startswith(f"<Recogniser: light {built[kind].name}, 16000 Hz")
    recogniser = exporter.load(built[kind], threads=1)
    assert recogniser.transcribe(clip, **options).text == text


TRIED = """
import json, sys
from exporter.build.smoke_test import smoke_test
told = smoke_test({"folder": sys.argv[1], "clip": sys.argv[2]}, lambda *_: None)
heavy = sorted({name.partition(".")[0] for name in sys.modules} & set(sys.argv[3:]))
print(json.dumps([told["text"], heavy]))
"""


@pytest.mark.parametrize("kind", ["whisper", "whisper aoti"])
def test_nor_when_a_build_tries_its_artifact(built: dict[str, Path], clip: Path, kind: str) -> None:
    command = [sys.executable, "-c", TRIED, str(built[kind]), str(clip), *HEAVY]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    text = exporter.load(built[kind]).transcribe(clip).text
    assert json.loads(done.stdout) == [text, []]


@pytest.mark.parametrize("kind", ARTIFACTS)
def test_its_text_is_that_of_the_familys_road(built: dict[str, Path], kind: str) -> None:
    """The road of transformers' model, which decodes after its first use."""
    recogniser = exporter.load(built[kind], threads=1)
    sounds = [tones(0.3 + 0.6 * n, n) for n in range(3)]
    ours = recogniser.transcribe(sounds, sampling_rate=16_000, batch_size=3)
    alone = recogniser.opened
    assert not isinstance(alone, FamilyModel)
    facts = alone.sampling_rate, alone.window, alone.vocabulary
    assert recogniser.model is not None
    whole = recogniser.opened
    assert isinstance(whole, FamilyModel)
    assert facts == (whole.sampling_rate, whole.window, whole.vocabulary)
    assert recogniser.transcribe(sounds, sampling_rate=16_000, batch_size=3) == ours
    assert recogniser.manifest == store.read_manifest(built[kind])
    assert recogniser.decoding == recipe.read(built[kind] / "recipe.yaml").decoding


def copied(folder: Path, place: Path, change: str = "") -> Path:
    """Copy an artifact, with one byte of a file changed."""
    place.mkdir()
    for path in folder.iterdir():
        data = bytearray(path.read_bytes())
        if path.name == change:
            data[len(data) // 2] ^= 1
        (place / path.name).write_bytes(data)
    return place


@pytest.mark.parametrize("kind", ["wav2vec2", "whisper", "whisper aoti"])
def test_whatever_is_changed_is_told_before_a_text(
    built: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    """Files are hashed while they are opened; what opening raises over them is not what is told."""
    for file in store.read_manifest(built[kind]).files:
        if file.size_bytes:
            folder = copied(built[kind], tmp_path / file.path.replace("/", "-"), file.path)
            with pytest.raises(IntegrityError, match=r"does not match the manifest|was changed"):
                exporter.load(folder, threads=1)


def test_other_graphs_are_refused(built: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(built["wav2vec2"], tmp_path / "other")
    (folder / "model.onnx").rename(folder / "other.onnx")
    manifest = store.read_manifest(folder).model_copy(update={"files": ()})
    (folder / "manifest.json").unlink()
    store.seal(folder, manifest)
    with pytest.raises(IntegrityError, match="has other graphs than model"):
        exporter.load(folder, threads=1)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("kind", ["wav2vec2", "whisper"])
def test_segments_come_one_by_one(built: dict[str, Path], kind: str, whole: bool) -> None:
    """And the last of all is the transcript, also by the model of transformers."""
    recogniser = exporter.load(built[kind], threads=1)
    if whole:
        assert recogniser.model is not None
    for seconds in (1.0, 9.0):
        sound = tones(seconds)
        given, found = recogniser.segments(sound, sampling_rate=16_000, timestamps=True), []
        while True:
            try:
                found.append(next(given))
            except StopIteration as end:
                transcript = end.value
                break
        expected = recogniser.transcribe(sound, sampling_rate=16_000, timestamps=True)
        assert transcript == expected
        assert tuple(found) == expected.segments
    with pytest.raises(TypeError, match="an unknown option"):
        recogniser.segments(sound, sampling_rate=16_000, beams=2)


def test_a_measurement_sees_every_call(built: dict[str, Path]) -> None:
    recogniser = exporter.load(built["whisper"], threads=1)
    functions, seen = recogniser.opened.functions, []
    assert functions is not None
    step = functions["step"]

    def watched(given: Any) -> Any:
        outputs = step(given)
        seen.append(bool(np.isfinite(outputs["logits"]).all()))
        return outputs

    functions["step"] = watched
    recogniser.opened.limit_tokens(12)
    transcript = recogniser.transcribe(tones(1.0), sampling_rate=16_000)
    assert all(seen)
    assert len(transcript.tokens) <= len(seen) <= 9
    assert light.opens(store.read_sealed(built["whisper"]))
