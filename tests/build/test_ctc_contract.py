"""CTC models x targets: build, seal, reload, and compare with transformers; other loaders too.

Every kind of model goes through every target; what is said to users is asked of two of them.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import soundfile
import torch
import transformers

from exporter import recipe
from exporter.artifact import store
from exporter.build.pipeline import build
from exporter.cli import main
from exporter.families.ctc.engine import logits_of
from exporter.recipe import Decoding
from exporter.recognition.load import load, load_original
from exporter.recognition.recogniser import Recogniser
from exporter.system.progress import silent
from tests.support import exact
from tests.support.tiny_ctc import KINDS, make_clips, make_ctc, tones

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("steps_here")]

TARGETS = ["onnx-int8", "torch-int8", "aoti"]
RECIPE = """\
name: letters
checkpoint: checkpoint
targets: [{kind: onnx-int8}, {kind: torch-int8}, {kind: aoti}]
data: {clips: clips}
gate: {max_wer_increase: 1.0, max_latency_ratio: 1000, max_reference_wer: 1000, min_clips: 2}
"""
# Of one frame, of two, and of lengths that no graph was traced with.
SAMPLES = (514, 1026, 1100, 16_001, 40_000)


def built(folder: Path, kind: str, targets: list[str], *overrides: str) -> dict[str, Path]:
    """Build a checkpoint of a kind; its artifacts by the target's kind."""
    make_ctc(folder / "checkpoint", kind)
    make_clips(folder / "clips")
    (folder / "letters.yaml").write_text(RECIPE)
    wanted = recipe.read(folder / "letters.yaml", [*exact.OVERRIDES, *overrides])
    made = build(wanted, output=folder / "artifacts", targets=targets, progress=silent)
    return {each.manifest.kind: each.path for each in made}


def heard(original: Recogniser, sounds: list[Any]) -> torch.Tensor:
    """The input of a model for recordings of equal length."""
    return original.family.forcing.window_features(original.processor, sounds)


def apart(logits: torch.Tensor, others: torch.Tensor) -> float:
    """The root mean square of what letters differ by; the other tokens are never written."""
    letters, difference = others[..., 4:], (logits - others)[..., 4:]
    return float(difference.square().mean().sqrt() / letters.std())


def require_near(model: Any, original: Recogniser) -> None:
    """Require logits near the original's for any length, alone and in a batch."""
    for samples in SAMPLES:
        for batch in (1, 2):
            values = heard(original, [tones(samples / 16_000, seed) for seed in range(batch)])
            with torch.inference_mode():
                ours, theirs = logits_of(model, values), original.model(values).logits
            assert ours.shape == theirs.shape
            assert apart(ours, theirs) < 0.06  # of a single frame, int8 leaves the most


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_near_its_original(kind: str, tmp_path: Path) -> None:
    made = built(tmp_path, kind, ["onnx-int8", "torch-int8"])
    original = load_original(str(tmp_path / "checkpoint"), threads=1)
    for path in made.values():
        recogniser = load(path, threads=1)
        require_near(recogniser.model, original)
        manifest = store.read_manifest(path)
        predicted = manifest.build.predicted.size_bytes
        # A graph's nodes count here, whose weights are so few.
        assert manifest.size_bytes == pytest.approx(predicted, rel=0.3, abs=45_000)
    rebuilt = load(made["torch-int8"], threads=1).model
    assert type(rebuilt) is type(original.model)
    values = heard(original, [tones(0.7)])
    with torch.inference_mode():  # what transformers' pipeline calls, on quantized modules
        # Layer norms of another layout differ in their last bits, which turn an int8 code here and
        # there.
        assert apart(rebuilt(values).logits, logits_of(rebuilt, values)) < 0.02


COMPILED = ["wav2vec2-layer-norm", "wav2vec2-bert", "parakeet_ctc"]  # one of each kind of input
ALIKE = ["hubert", "hubert-batch-norm", "wavlm", "wav2vec2-conformer-rotary"]


@pytest.mark.parametrize(
    "kind", [*COMPILED, *(pytest.param(kind, marks=pytest.mark.sweep) for kind in ALIKE)]
)
def test_what_is_compiled_is_near_its_original(kind: str, tmp_path: Path) -> None:
    made = built(tmp_path, kind, ["aoti"])
    original = load_original(str(tmp_path / "checkpoint"), threads=1)
    require_near(load(made["aoti"], threads=1).model, original)


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    from tests.support.in_process import steps_in_process

    folder = tmp_path_factory.mktemp("letters")
    with steps_in_process():
        return {"folder": folder, **built(folder, "wav2vec2", TARGETS)}


@pytest.mark.parametrize("target", TARGETS)
def test_batches_are_single_recordings(letters: dict[str, Any], target: str) -> None:
    recogniser = load(letters[target], threads=1)
    sounds = [tones(0.02 + 0.5 * index, index) for index in range(5)]
    alone = [recogniser.transcribe([sound], sampling_rate=16_000)[0] for sound in sounds]
    assert recogniser.transcribe(sounds, sampling_rate=16_000, batch_size=5) == alone
    assert all(transcript.text for transcript in alone[1:])
    assert recogniser.decode([np.empty(0, np.float32)], Decoding())[0].text == ""


@pytest.mark.parametrize("target", TARGETS)
def test_pipeline_runs_the_loaded_model(letters: dict[str, Any], target: str) -> None:
    """Whole, and in chunks with strides that are cut."""
    recogniser = load(letters[target], threads=1)
    heard = transformers.pipeline(
        "automatic-speech-recognition",
        model=recogniser.model,
        tokenizer=recogniser.processor.tokenizer,
        feature_extractor=recogniser.processor.feature_extractor,
    )
    sound = tones(4.2, 3)
    for options in ({}, {"chunk_length_s": 1.0}, {"chunk_length_s": 1.0, "stride_length_s": 0.3}):
        (own,) = recogniser.transcribe([sound], sampling_rate=16_000, **options)
        assert heard(sound.copy(), **options)["text"] == own.text


def test_pipeline_gives_features_and_their_mask(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also of an odd number of frames, whose last row the mask hides; and chunks of samples."""
    folder = built(tmp_path, "wav2vec2-bert", ["onnx-int8"])["onnx-int8"]
    recogniser = load(folder, threads=1)
    heard_by = transformers.pipeline(
        "automatic-speech-recognition",
        model=recogniser.model,
        tokenizer=recogniser.processor.tokenizer,
        feature_extractor=recogniser.processor.feature_extractor,
    )
    for sound in (tones(1.0), tones(1.01), tones(4.2, 3)):
        for options in ({}, {"chunk_length_s": 1.0, "stride_length_s": 0.3}):
            (own,) = recogniser.transcribe([sound], sampling_rate=16_000, **options)
            assert own.text
            assert heard_by(sound.copy(), **options)["text"] == own.text
    for command in (["doctor"], ["bench", "--runs=1", "--threads=1"]):
        assert main([command[0], str(folder), *command[1:], "--json"]) == 0, command
        capfd.readouterr()


@pytest.mark.optimum
def test_optimum_loads_the_onnx_folder_as_it_is(letters: dict[str, Any]) -> None:
    from optimum.onnxruntime import ORTModelForCTC

    folder = letters["onnx-int8"]
    graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
    assert [each.name for each in graph.input] == ["input_values"]
    assert [each.name for each in graph.output] == ["logits"]
    model = ORTModelForCTC.from_pretrained(folder)
    processor = transformers.AutoProcessor.from_pretrained(folder)
    sounds = [tones(1.0 + 0.3 * index, index) for index in range(3)]
    expected = [t.text for t in load(folder, threads=1).transcribe(sounds, sampling_rate=16_000)]
    for sound, text in zip(sounds, expected, strict=True):
        inputs = processor(sound, sampling_rate=16_000, return_tensors="pt")
        best = model(input_values=inputs.input_values).logits.argmax(-1)
        assert processor.batch_decode(best) == [text]
    # Release 0.1 of optimum lacks this attribute, which transformers' pipeline asks for.
    model.main_input_name = "input_values"
    heard = transformers.pipeline(
        "automatic-speech-recognition",
        model=model,
        tokenizer=processor.tokenizer,
        feature_extractor=processor.feature_extractor,
    )
    assert [heard(sound.copy())["text"] for sound in sounds] == expected
    sound, options = tones(4.2, 3), {"chunk_length_s": 1.0, "stride_length_s": 0.2}
    (own,) = load(folder, threads=1).transcribe([sound], sampling_rate=16_000, **options)
    assert heard(sound.copy(), **options)["text"] == own.text


def test_no_layer_is_left_to_chance(letters: dict[str, Any]) -> None:
    """transformers draws a number in every layer, and the graph holds none."""
    graph = onnx.load(letters["onnx-int8"] / "model.onnx", load_external_data=False).graph
    found = {node.op_type for node in graph.node}
    assert not {op for op in found if op.startswith("Random")}
    assert not {"ConvInteger", "QLinearConv"} & found
    convolutions, layers, projections = 2, 2 * 6, 2
    products = sum(node.op_type == "MatMulInteger" for node in graph.node)
    assert products == convolutions + layers + projections


@pytest.mark.parametrize("target", TARGETS)
def test_the_commands_take_it(
    letters: dict[str, Any], target: str, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = letters[target]
    clips = sorted(map(str, (letters["folder"] / "clips").glob("*.wav")))
    assert main(["transcribe", str(folder), *clips, "--json"]) == 0
    rows = json.loads(capfd.readouterr().out)["transcripts"]
    assert all(row["text"] for row in rows)
    length = soundfile.info(clips[0]).duration
    assert rows[0]["segments"] == [
        {"start_s": 0.0, "end_s": pytest.approx(length), "text": rows[0]["text"]}
    ]
    assert main(["transcribe", str(folder), clips[0], "--timestamps"]) == 0
    assert rows[0]["text"] in capfd.readouterr().out
    for command in (["inspect"], ["doctor"], ["bench", "--runs=1", "--threads=1"]):
        assert main([command[0], str(folder), *command[1:], "--json"]) == 0, command
        capfd.readouterr()
    assert store.verify(folder).family == "ctc"
