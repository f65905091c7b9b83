"""Values that no Whisper means are told with their file, in checkpoints and in artifacts."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exporter.errors import CheckpointError, IntegrityError
from exporter.families.whisper import agreement
from exporter.families.whisper import family as whisper
from exporter.families.whisper.construct import generation_config
from exporter.recognition.load import load
from tests.support.built import Change, edit
from tests.support.resealed import resealed
from tests.support.tiny import make_whisper

GENERATION, EXTRACTOR = "generation_config.json", "preprocessor_config.json"


@pytest.fixture
def folder(tiny_whisper: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_whisper, tmp_path / "checkpoint"))


def checked(folder: Path) -> None:
    """Check a checkpoint as a build does."""
    config = json.loads((folder / "config.json").read_text())
    whisper.skeleton(config)
    whisper.check_processor(folder, config)


def tokens_of(folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((folder / GENERATION).read_text())
    return told


def everything_suppressed(folder: Path) -> None:
    edit(GENERATION, suppress_tokens=list(range(tokens_of(folder)["eos_token_id"])))(folder)


def end_suppressed(folder: Path) -> None:
    edit(GENERATION, suppress_tokens=[tokens_of(folder)["eos_token_id"]])(folder)


def without_a_word(folder: Path) -> None:
    path = folder / "tokenizer.json"
    told = json.loads(path.read_text())
    words = told["model"]["vocab"]
    del words[next(word for word, number in words.items() if number == 40)]
    path.write_text(json.dumps(told))


def without(token: str) -> Change:
    def change(folder: Path) -> None:
        for path in folder.glob("*.json"):
            if path.name != GENERATION:
                path.write_text(path.read_text().replace(token, "<|gone|>"))

    return change


ODD: dict[str, tuple[Change, str]] = {
    "an end that is a word": (edit(GENERATION, eos_token_id=40), "endoftext.* is number .* 40"),
    "a language that is a word": (
        edit(GENERATION, lang_to_id={"<|xx|>": 40}),
        r"'<\|xx\|>' is token 40, its '.*', a word",
    ),
    "padding that is a word": (edit(GENERATION, pad_token_id=40), "'pad_token_id' is token 40"),
    "a negative token": (edit(GENERATION, suppress_tokens=[-1]), "'suppress_tokens' is token -1"),
    "a token beyond": (
        edit(GENERATION, begin_suppress_tokens=[99_999]),
        "'begin_suppress_tokens' is token 99999, and the model has",
    ),
    "no end": (end_suppressed, "the end: decoding would never end"),
    "no word": (everything_suppressed, "every word of it is suppressed"),
    "too long": (edit(GENERATION, max_length=65), "max_length is 65, .* at most 64 tokens"),
    "heads of nothing": (edit(GENERATION, alignment_heads=[[1]]), "no pairs of a layer"),
    "other frames": (edit(EXTRACTOR, hop_length=100), "a window of 640 frames, the model 400"),
    "another rate": (edit(EXTRACTOR, sampling_rate=8_000), "a window of 200 frames"),
    "other mels": (edit(EXTRACTOR, feature_size=81), "81 mel bins, the model 80"),
    "a frame of one sample": (edit(EXTRACTOR, n_fft=1), "n_fft: .* greater than or equal to 2"),
    "no merges": (lambda f: (f / "merges.txt").write_text("#version: 0.2\n"), "has no merge"),
    "a hole": (without_a_word, "has no token 40, and 1 of"),
    "no start": (without("<|startoftranscript|>"), r"no <\|startoftranscript\|>"),
    "no timestamps": (without("<|notimestamps|>"), r"no <\|notimestamps\|>"),
}


@pytest.mark.parametrize("what", ODD)
def test_what_no_whisper_means_is_told(what: str, folder: Path) -> None:
    change, told = ODD[what]
    checked(folder)
    change(folder)
    with pytest.raises(CheckpointError, match=told) as caught:
        checked(folder)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("key", ["eos_token_id", "decoder_start_token_id", "max_length"])
def test_artifacts_with_such_values_do_not_open(key: str, tmp_path: Path) -> None:
    folder = resealed("torch-int8", tmp_path / "artifact", edit(GENERATION, **{key: 7_000}))
    with pytest.raises(IntegrityError, match=re.escape(GENERATION)):
        load(folder, trust=True)


SHAPES: list[dict[str, Any]] = [
    {},
    {"english_only": True, "window_s": 6, "languages": 1},
    {"mels": 128, "languages": 7, "window_s": 30},
    {"max_tokens": 448, "encoder_layers": 1, "decoder_layers": 1},
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_checkpoints_of_every_shape_agree(shape: dict[str, Any], tmp_path: Path) -> None:
    checked(make_whisper(tmp_path / "checkpoint", **shape))


REAL: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "nothing suppressed, as large-v3": lambda _: {"suppress_tokens": []},
    "several ends": lambda told: {"eos_token_id": [told["eos_token_id"]]},
    "no padding": lambda _: {"pad_token_id": None},
    "an old prompt": lambda told: {
        "forced_decoder_ids": [[1, None], [2, told["task_to_id"]["transcribe"]]],
        "prev_sot_token_id": None,
    },
    "shorter texts": lambda _: {"max_length": 20},
    "heads of the teacher, as kotoba-whisper": lambda _: {
        "alignment_heads": [[7, 0], [10, 17], [25, 6]]
    },
}


@pytest.mark.parametrize("what", REAL)
def test_what_real_checkpoints_have_is_taken(what: str, folder: Path) -> None:
    edit(GENERATION, **REAL[what](tokens_of(folder)))(folder)
    checked(folder)


# What openai/whisper-large-v3, whisper-small and whisper-tiny.en have.
PUBLISHED = [
    (51_866, {"eos_token_id": 50_257, "pad_token_id": 50_257, "no_timestamps_token_id": 50_364}),
    (51_865, {"eos_token_id": 50_257, "pad_token_id": 50_256, "max_length": 448}),
    (51_864, {"eos_token_id": 50_256, "bos_token_id": 50_257, "suppress_tokens": [1, 50_361]}),
]


@pytest.mark.parametrize(("size", "generation"), PUBLISHED)
def test_numbers_of_published_models_are_taken(size: int, generation: dict[str, Any]) -> None:
    config = {"vocab_size": size, "max_target_positions": 448}
    first = {"begin_suppress_tokens": [220, generation["eos_token_id"]]}
    assert not list(agreement.wrong_numbers(config, {**first, **generation}))


def test_heads_that_a_model_lacks_are_dropped(folder: Path) -> None:
    edit(GENERATION, alignment_heads=[[0, 1], [7, 0], [1, 9]])(folder)
    assert generation_config(folder).alignment_heads == [[0, 1]]
