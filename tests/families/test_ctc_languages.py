"""A checkpoint with adapters for many languages becomes one of a single language."""

import json
import os
import subprocess
import sys
from difflib import SequenceMatcher
from pathlib import Path

import pytest
import torch
import transformers

from exporter import recipe
from exporter.build.pipeline import build
from exporter.build.resolve import resolve
from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.errors import CheckpointError, IntegrityError, RecipeError
from exporter.families import FAMILIES
from exporter.recipe import Decoding
from exporter.recognition.load import load, load_original
from exporter.recognition.reference import References
from exporter.system.progress import silent
from tests.support import exact
from tests.support.hub import of_folder, serving
from tests.support.tiny_ctc import make_ctc, make_mms, tones

SOUND = tones(1.5, 4)
OPEN = """
import json, sys
from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.errors import ExporterError
language = sys.argv[1]
try:
    far = open_checkpoint("org/mms", weights=False, language=language)
    near = open_checkpoint("org/mms", language=language)
except ExporterError as error:
    print(type(error).__name__, error)
else:
    assert far.config == near.config
    print(json.dumps([near.language, near.config["vocab_size"], near.sha256]))
"""
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
    with pytest.raises(CheckpointError, match=r"target_lang 'fra' has no voc.*; it has deu, eng"):
        open_checkpoint(str(folder))
    folder = make_mms(tmp_path / "without")
    (folder / "adapter.deu.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no adapter\.deu\.safetensors, the weights"):
        open_checkpoint(str(folder))


def test_a_recipe_chooses_the_language(tmp_path: Path) -> None:
    """As if the tokenizer named it; a name that is none is answered with those that are near."""
    folder = make_mms(tmp_path / "mms", "eng")
    german = make_mms(tmp_path / "german", "deu")
    opened = open_checkpoint(str(folder), language="deu")
    assert (opened.language, opened.config["target_lang"]) == ("deu", "deu")
    assert opened.companion("vocab.json") == open_checkpoint(str(german)).companion("vocab.json")
    decoding = Decoding(language="deu")
    chosen = load_original(str(folder), threads=1, decoding=decoding)
    told = load_original(str(german), threads=1)
    assert chosen.transcribe([SOUND], sampling_rate=16_000) == told.transcribe(
        [SOUND], sampling_rate=16_000
    )
    with pytest.raises(RecipeError, match="of the language 'deu' alone, not of 'eng'"):
        chosen.transcribe([SOUND], sampling_rate=16_000, language="eng")
    for name in ("de", "German", "dem"):
        with pytest.raises(RecipeError, match=rf"no language '{name}'; the nearest are deu"):
            open_checkpoint(str(folder), language=name)


def test_another_model_of_one_language_takes_none(tmp_path: Path) -> None:
    make_ctc(tmp_path / "mms")
    (tmp_path / "german.yaml").write_text(RECIPE + "decoding: {language: deu}\n")
    wanted = recipe.read(tmp_path / "german.yaml")
    with pytest.raises(RecipeError, match="has no decoding option `language`"):
        resolve(wanted, tmp_path / "artifacts", None, (), silent)


def test_an_unknown_language_is_refused_at_its_line(tmp_path: Path) -> None:
    make_mms(tmp_path / "mms")
    (tmp_path / "german.yaml").write_text(RECIPE + "decoding:\n  language: ger\n")
    wanted = recipe.read(tmp_path / "german.yaml")
    with pytest.raises(RecipeError, match=r"german\.yaml:5.*no language 'ger'"):
        resolve(wanted, tmp_path / "artifacts", None, (), silent)


@pytest.mark.parametrize("name", ["deu", "de", "de-AT", "German"])
def test_clips_may_name_the_language_as_they_do(name: str) -> None:
    configs = {"config.json": {"model_type": "wav2vec2", "target_lang": "deu"}}
    family = FAMILIES["ctc"]
    assert family.text_language(configs, Decoding(), "de") == "deu"
    assert family.language_code(configs, name) == "deu"
    with pytest.raises(RecipeError, match="of the language 'deu' alone"):
        family.language_code(configs, "fr")
    plain = {"config.json": {"model_type": "wav2vec2"}}
    assert family.text_language(plain, Decoding(), name) == name
    assert family.language_code(plain, name) is None


@pytest.mark.parametrize("language", ["deu", "eng"])
def test_only_one_language_is_downloaded(tmp_path: Path, language: str) -> None:
    """A dry run brings its small file too; a cached copy without it is not complete."""
    folder = make_mms(tmp_path / "mms", "eng")
    (folder / "adapter.fra.safetensors").write_bytes(b"not needed")
    with serving("hf_abcdefghijklmnopqrstuvwxyz0123456789") as hub:
        hub.api.create("org/mms", files=of_folder(folder))
        told = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home")}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        environment = kept | told | {"NO_PROXY": "*", "HF_HUB_DISABLE_XET": "1"}

        def opened(which: str, **more: str) -> str:
            ran = subprocess.run(
                [sys.executable, "-c", OPEN, which],
                env=environment | more,
                capture_output=True,
                text=True,
            )
            assert ran.returncode == 0, ran.stderr
            return ran.stdout

        here = open_checkpoint(str(folder), language=language)
        assert json.loads(opened(language)) == [language, here.config["vocab_size"], here.sha256]
        adapters = {name for name in hub.fetched() if name.startswith("adapter.")}
        assert adapters == ({"adapter.deu.safetensors"} if language == "deu" else set())
        other = "eng" if language == "deu" else "deu"
        if other == "eng":
            assert json.loads(opened(other, HF_HUB_OFFLINE="1"))[0] == "eng"
        else:
            assert "Error" in opened(other, HF_HUB_OFFLINE="1")
        assert "no language 'xyz'" in opened("xyz")


@pytest.mark.slow
@pytest.mark.usefixtures("steps_here")
def test_an_artifact_is_of_one_language(tmp_path: Path) -> None:
    """It holds a flat vocabulary, which every loader reads, and no other language's weights."""
    folder = make_mms(tmp_path / "mms", "eng")
    (tmp_path / "german.yaml").write_text(RECIPE + "decoding: {language: deu}\n")
    wanted = recipe.read(tmp_path / "german.yaml", exact.OVERRIDES)
    original = load_original(str(folder), threads=1, decoding=wanted.decoding)
    (expected,) = original.transcribe([SOUND], sampling_rate=16_000)
    for made in build(wanted, output=tmp_path / "artifacts", progress=silent):
        config = json.loads((made.path / "config.json").read_text())
        vocabulary = json.loads((made.path / "vocab.json").read_text())
        settings = json.loads((made.path / "tokenizer_config.json").read_text())
        assert config["vocab_size"] == len(vocabulary) == 20
        assert "target_lang" not in settings
        assert config["target_lang"] == "deu"
        references = References("", silent)
        german = references.of_artifact(made.path, made.manifest, language="deu")
        assert german.language == "deu"
        assert references.of_artifact(made.path, made.manifest, language="deu") is german
        with pytest.raises(IntegrityError, match="is not the checkpoint that"):
            references.of_artifact(made.path, made.manifest, language="eng")
        (heard,) = load(made.path, threads=1).transcribe([SOUND], sampling_rate=16_000)
        assert SequenceMatcher(None, heard.text, expected.text).ratio() > 0.8
