"""A checkpoint with adapters for many languages becomes one of a single language."""

import json
from difflib import SequenceMatcher
from pathlib import Path

import pytest
import torch
import transformers

from exporter import recipe
from exporter.build.pipeline import build
from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.errors import CheckpointError
from exporter.runtime.load import load, load_original
from exporter.system.progress import silent
from tests.support import exact
from tests.support.tiny_ctc import make_mms, tones

SOUND = tones(1.5, 4)
RECIPE = "name: german\ncheckpoint: mms\ntargets: [{kind: onnx-int8}, {kind: torch-int8}]\n"


def theirs(folder: Path, language: str | None) -> torch.Tensor:
    """The logits of transformers, which loads an adapter if it is told so."""
    told = {} if language is None else {"target_lang": language, "ignore_mismatched_sizes": True}
    model = transformers.Wav2Vec2ForCTC.from_pretrained(folder, **told).eval()
    inputs = transformers.Wav2Vec2FeatureExtractor.from_pretrained(folder)(
        SOUND, sampling_rate=16_000, return_tensors="pt"
    )
    with torch.inference_mode():
        logits: torch.Tensor = model(inputs.input_values).logits
        return logits


@pytest.mark.parametrize("pickled", [False, True])
def test_the_language_of_the_tokenizer_is_merged(tmp_path: Path, pickled: bool) -> None:
    folder = make_mms(tmp_path / "mms", pickled=pickled)
    original = load_original(str(folder), threads=1, allow_pickle=pickled)
    assert original.model.config.vocab_size == 20
    features = original.family.forcing.own_features(original.model, original.processor, [SOUND])
    with torch.inference_mode():
        ours = original.model(features).logits
    torch.testing.assert_close(ours, theirs(folder, "deu"), atol=3e-5, rtol=1e-5)
    (heard,) = original.transcribe([SOUND], sampling_rate=16_000)
    tokenizer = transformers.Wav2Vec2CTCTokenizer.from_pretrained(folder)
    assert tokenizer.decode(ours[0].argmax(-1)) == heard.text


def test_a_pickle_needs_leave(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"adapter\.deu\.bin is a pickle"):
        open_checkpoint(str(make_mms(tmp_path / "mms", pickled=True)))


def test_english_is_in_the_weights(tmp_path: Path) -> None:
    folder = make_mms(tmp_path / "mms", "eng")
    opened = open_checkpoint(str(folder))
    assert (opened.language, opened.config["vocab_size"]) == ("eng", 16)
    original = load_original(str(folder), threads=1)
    features = original.family.forcing.own_features(original.model, original.processor, [SOUND])
    with torch.inference_mode():
        torch.testing.assert_close(original.model(features).logits, theirs(folder, None))


def test_another_language_is_another_checkpoint(tmp_path: Path) -> None:
    german, english = (make_mms(tmp_path / name, name) for name in ("deu", "eng"))
    assert open_checkpoint(str(german)).sha256 != open_checkpoint(str(english)).sha256


def test_a_language_that_is_not_there_is_told(tmp_path: Path) -> None:
    folder = make_mms(tmp_path / "mms", "fra")
    with pytest.raises(CheckpointError, match=r"target_lang 'fra' has no vocabulary.*: deu, eng"):
        open_checkpoint(str(folder))
    folder = make_mms(tmp_path / "without")
    (folder / "adapter.deu.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no adapter\.deu\.safetensors, the weights"):
        open_checkpoint(str(folder))


@pytest.mark.slow
@pytest.mark.usefixtures("steps_here")
def test_an_artifact_is_of_one_language(tmp_path: Path) -> None:
    """It holds a flat vocabulary, which every loader reads, and no other language's weights."""
    folder = make_mms(tmp_path / "mms")
    (tmp_path / "german.yaml").write_text(RECIPE)
    wanted = recipe.read(tmp_path / "german.yaml", exact.OVERRIDES)
    (expected,) = load_original(str(folder), threads=1).transcribe([SOUND], sampling_rate=16_000)
    for made in build(wanted, output=tmp_path / "artifacts", progress=silent):
        config = json.loads((made.path / "config.json").read_text())
        vocabulary = json.loads((made.path / "vocab.json").read_text())
        settings = json.loads((made.path / "tokenizer_config.json").read_text())
        assert config["vocab_size"] == len(vocabulary) == 20
        assert "target_lang" not in settings
        (heard,) = load(made.path, threads=1).transcribe([SOUND], sampling_rate=16_000)
        assert SequenceMatcher(None, heard.text, expected.text).ratio() > 0.8
