"""SpeechBrain x targets: build, seal, reload without the folder, compare, validate, transcribe."""

import json
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
import transformers

from exporter import recipe
from exporter.build.pipeline import build
from exporter.cli import main
from exporter.families.ctc.engine import logits_of
from exporter.families.ctc.speechbrain import SpeechBrainForCTC
from exporter.recipe import Decoding
from exporter.recognition.load import load
from exporter.system.progress import silent
from tests.support import exact
from tests.support.tiny_ctc import make_clips, tones
from tests.support.tiny_speechbrain import make_speechbrain

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("steps_here")]

TARGETS = ["onnx-int8", "torch-int8", "aoti"]
RECIPE = """\
name: brain
checkpoint: checkpoint
allow_pickle: true
targets: [{kind: onnx-int8}, {kind: torch-int8}, {kind: aoti}]
quantization:
  modules: {lm_head: float, enc.*: dynamic-int8, wav2vec2.encoder.layers.*: dynamic-int8}
data: {clips: clips}
gate: {max_wer_increase: 1.0, max_latency_ratio: 1000, max_reference_wer: 1000, min_clips: 2}
"""
SAMPLES = (514, 1026, 16_001, 40_000)


def built(folder: Path, form: str, targets: list[str], **options: Any) -> dict[str, Any]:
    """Build a checkpoint; its artifacts by the target's kind, and what SpeechBrain computes."""
    reference = make_speechbrain(folder / "checkpoint", form, **options)
    make_clips(folder / "clips")
    (folder / "brain.yaml").write_text(RECIPE)
    wanted = recipe.read(folder / "brain.yaml", exact.OVERRIDES)
    made = build(wanted, output=folder / "artifacts", targets=targets, progress=silent)
    paths = {each.manifest.kind: each.path for each in made}
    return {**paths, "reference": reference, "folder": folder}


@pytest.fixture(scope="module")
def brain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One checkpoint in all targets, whose folder is then out of reach."""
    return built(tmp_path_factory.mktemp("brain"), "sequential", TARGETS)


def require_near(model: Any, reference: Any) -> None:
    for samples in SAMPLES:
        values = 10 * torch.from_numpy(tones(samples / 16_000, 1))[None]
        with torch.inference_mode():
            ours, theirs = logits_of(model, values), reference(values)
        assert ours.shape == theirs.shape
        pieces = theirs[..., 3:]  # the others are never written
        assert (ours - theirs)[..., 3:].square().mean().sqrt() < 0.05 * pieces.std()


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_is_near_speechbrain(brain: dict[str, Any], target: str) -> None:
    recogniser = load(brain[target], threads=1)
    require_near(recogniser.model, brain["reference"])
    sounds = [tones(0.03), tones(0.8, 1), tones(2.3, 2)]
    texts = [each.text for each in recogniser.decode(sounds, Decoding())]
    assert all(texts[1:])


def test_the_other_form_is_near_it_too(tmp_path: Path) -> None:
    made = built(tmp_path, "vanilla", ["onnx-int8"], output_norm=False, older_names=True)
    require_near(load(made["onnx-int8"], threads=1).model, made["reference"])


@pytest.mark.parametrize("target", TARGETS)
def test_an_artifact_holds_nothing_of_speechbrain(brain: dict[str, Any], target: str) -> None:
    names = {path.name for path in brain[target].iterdir()}
    assert {"config.json", "vocab.json", "preprocessor_config.json"} <= names
    assert not [name for name in names if name.endswith((".ckpt", "hyperparams.yaml"))]
    config = json.loads((brain[target] / "config.json").read_text())
    assert config["model_type"] == "speechbrain-wav2vec2-ctc"


def test_torch_int8_is_a_module_of_ours(brain: dict[str, Any]) -> None:
    recogniser = load(brain["torch-int8"], threads=1)
    assert type(recogniser.model) is SpeechBrainForCTC
    heard = transformers.pipeline(
        "automatic-speech-recognition",
        model=recogniser.model,
        tokenizer=recogniser.processor.tokenizer,
        feature_extractor=recogniser.processor.feature_extractor,
    )
    sound = tones(2.2, 3)
    (own,) = recogniser.transcribe([sound], sampling_rate=16_000)
    assert heard(sound.copy())["text"] == own.text


def test_the_graph_has_one_input_and_one_output(brain: dict[str, Any]) -> None:
    """The layers and the head network are int8, the projection to tokens is not."""
    graph = onnx.load(brain["onnx-int8"] / "model.onnx", load_external_data=False).graph
    assert [each.name for each in graph.input] == ["input_values"]
    assert [each.name for each in graph.output] == ["logits"]
    convolutions, layers, head, projection = 2, 2 * 6, 3, 1
    products = sum(node.op_type == "MatMulInteger" for node in graph.node)
    assert products == convolutions + layers + head + projection


@pytest.mark.optimum
def test_optimum_opens_it_with_an_encoders_config(brain: dict[str, Any]) -> None:
    from optimum.onnxruntime import ORTModelForCTC

    folder = brain["onnx-int8"]
    config = transformers.Wav2Vec2Config.from_pretrained(folder)
    model = ORTModelForCTC.from_pretrained(folder, config=config)
    tokenizer = transformers.Wav2Vec2CTCTokenizer.from_pretrained(folder)
    sound = tones(1.7, 5)
    best = model(input_values=torch.from_numpy(sound)[None]).logits.argmax(-1)
    (own,) = load(folder, threads=1).transcribe([sound], sampling_rate=16_000)
    assert tokenizer.batch_decode(best) == [own.text]


@pytest.mark.parametrize("target", TARGETS)
def test_the_commands_take_it(
    brain: dict[str, Any], target: str, capfd: pytest.CaptureFixture[str]
) -> None:
    clips = sorted(map(str, (brain["folder"] / "clips").glob("*.wav")))
    assert main(["transcribe", str(brain[target]), *clips, "--json"]) == 0
    rows = json.loads(capfd.readouterr().out)["transcripts"]
    assert all(row["text"] for row in rows)
    for command in ("inspect", "doctor"):
        assert main([command, str(brain[target]), "--json"]) == 0, command
        capfd.readouterr()


def test_it_is_validated(brain: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    """Its numbers are those of the plan, and its text nearly the original's."""
    assert main(["validate", str(brain["onnx-int8"]), "--threads=1", "--json"]) == 0
    (row,) = json.loads(capfd.readouterr().out)["reports"]
    report = row["report"]
    assert report["verdict"] == "passed"
    lines = (Path(row["path"]) / "predictions.jsonl").read_text().splitlines()
    for clip in map(json.loads, lines):
        pair = SequenceMatcher(None, clip["pred_text"], clip["pred_text_reference"])
        assert pair.ratio() > 0.8
