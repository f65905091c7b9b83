"""The recipe's decoding holds on every road, whatever a checkpoint's generation config asks for."""

import json
import re
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from exporter.errors import CheckpointError, RecipeError
from exporter.families.whisper import family as whisper
from exporter.recipe import Decoding
from exporter.recognition.load import load_original
from exporter.runtime.transcript import Transcript
from tests.support.whisper import multilingual, recut, sounds

KINDS = ["original", "dynamic", "static", "eager"]
ROADS: dict[str, dict[str, Any]] = {
    "alone": {},
    "together": {"batch_size": 3},
    "with times": {"timestamps": True},
}
WISHES: dict[str, Any] = {
    "num_beams": 5,
    "max_new_tokens": 3,
    "min_new_tokens": 2,
    "no_repeat_ngram_size": 1,
    "repetition_penalty": 4.0,
    "length_penalty": -3.0,
    "do_sample": True,
    "temperature": 5.0,
    "return_timestamps": True,
    "use_cache": False,
    "logprob_threshold": 0.0,
    "no_speech_threshold": 0.0,
    "compression_ratio_threshold": 0.1,
    "condition_on_prev_tokens": True,
    "num_return_sequences": 2,
    "forced_decoder_ids": [[1, 1], [2, 2]],
}


def opened(folder: Path, kind: str) -> Any:
    if kind in ("dynamic", "static"):
        return recut(folder, kind)  # type: ignore[arg-type]
    model = whisper.open_original(folder)
    if kind == "eager":
        whisper.attach_engine(model, folder)
    return model


def said(folder: Path, model: Any, decoding: Decoding) -> list[Transcript]:
    """Two recordings of one window, and one of two."""
    return whisper.transcribe(model, whisper.processor(folder), sounds(1.0, 3.0, 5.0), decoding)


@cache
def expected(folder: Path, kind: str, decoding: Decoding) -> list[Transcript]:
    return said(folder, opened(folder, kind), decoding)


@pytest.fixture
def copied(tiny_whisper: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_whisper, tmp_path / "checkpoint"))


def change(path: Path, values: dict[str, Any]) -> dict[str, Any]:
    changed: dict[str, Any] = json.loads(path.read_text()) | values
    path.write_text(json.dumps(changed))
    return changed


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("kind", KINDS)
def test_wishes_of_a_checkpoint_change_nothing(
    tiny_whisper: Path, copied: Path, kind: str, road: str
) -> None:
    change(copied / "generation_config.json", WISHES)
    # Old checkpoints hold some in config.json, which wins if the other file says that it is its.
    change(copied / "generation_config.json", {"_from_model_config": True})
    change(copied / "config.json", {"num_beams": 4, "max_length": 7, "use_cache": False})
    decoding = multilingual(**ROADS[road])
    assert said(copied, opened(copied, kind), decoding) == expected(tiny_whisper, kind, decoding)


@pytest.mark.parametrize("kind", KINDS)
def test_settings_of_an_open_model_change_nothing_either(tiny_whisper: Path, kind: str) -> None:
    model = opened(tiny_whisper, kind)
    for name, value in WISHES.items():
        setattr(model.generation_config, name, value)
    for road in ROADS.values():
        decoding = multilingual(**road)
        assert said(tiny_whisper, model, decoding) == expected(tiny_whisper, kind, decoding)
    assert model.generation_config.num_beams == 5  # the user's own calls of `generate` see them


def rows(model: Any, kind: str) -> list[int]:
    """A list that receives the number of rows of every step."""
    seen: list[int] = []
    if kind in ("original", "eager"):
        model.model.decoder.register_forward_hook(
            lambda *arguments: seen.append(len(arguments[-1].last_hidden_state))
        )
    if kind != "original":
        lean = model.engine.decoder.step

        def step(ids: Any, encoded: Any, kept: Any) -> Any:
            seen.append(len(ids))
            return lean(ids, encoded, kept)

        model.engine.decoder.step = step
    return seen


@pytest.mark.parametrize("kind", KINDS)
def test_the_recipes_options_are_followed(tiny_whisper: Path, kind: str) -> None:
    model = opened(tiny_whisper, kind)
    seen = rows(model, kind)
    for times in (False, True):
        seen.clear()
        said(tiny_whisper, model, multilingual(timestamps=times))
        assert set(seen) == {1}
        seen.clear()
        said(tiny_whisper, model, multilingual(timestamps=times, num_beams=3))
        assert max(seen) == 3
    three, _, long = said(tiny_whisper, model, multilingual(max_new_tokens=3))
    assert len(three.tokens) == 3
    assert long != expected(tiny_whisper, kind, multilingual())[2]
    for options in ({"no_repeat_ngram_size": 1}, {"repetition_penalty": 5.0}):
        found = said(tiny_whisper, model, multilingual(**options))
        assert found == expected(tiny_whisper, "original", multilingual(**options))


def configs(folder: Path, **wishes: Any) -> Any:
    names = ("config.json", "generation_config.json")
    read = {name: json.loads((folder / name).read_text()) for name in names}
    read["generation_config.json"] |= wishes
    return read


@pytest.mark.parametrize(
    ("wishes", "decoding", "told"),
    [
        ({"num_beams": 5}, {}, "num_beams 5, which the recipe does not: write `decoding: {num_b"),
        ({"num_beams": 5}, {"num_beams": 1}, ""),
        ({"num_beams": 1}, {}, ""),
        ({"do_sample": True, "top_k": 3}, {}, "do_sample true, top_k 3.*a recipe cannot"),
        ({"temperature": 0.5}, {}, ""),  # without sampling it means nothing
        ({"max_length": 20}, {}, ""),  # transformers' default
        ({"max_length": 30}, {}, r"max_length 30, .*\{max_new_tokens: 26\}` to keep it"),
        ({"max_length": 448}, {}, ""),  # more than the model's
        ({"max_new_tokens": 60}, {}, r"\{max_new_tokens: 60\}"),
        ({"max_new_tokens": 61}, {}, "max_new_tokens 61, .*a recipe cannot"),
        ({"max_new_tokens": -1}, {}, "max_new_tokens -1, .*a recipe cannot"),
        ({"no_repeat_ngram_size": "x"}, {}, 'size "x", .*a recipe cannot'),
        ({"num_beams": 5, "min_length": 4}, {}, "keep what a recipe can"),
        ({"return_timestamps": True}, {}, r"\{timestamps: true\}"),
        ({"logprob_threshold": -1.0, "condition_on_prev_tokens": False}, {}, "threshold -1.0, whi"),
        ({"use_cache": False, "transformers_version": "4.30"}, {}, ""),
    ],
)
def test_a_differing_wish_is_told(
    tiny_whisper: Path,
    caplog: pytest.LogCaptureFixture,
    wishes: dict[str, Any],
    decoding: dict[str, Any],
    told: str,
) -> None:
    whisper.check_decoding(configs(tiny_whisper, **wishes), Decoding(**decoding))
    assert len(caplog.records) == bool(told)
    assert re.search(told, caplog.text)


def test_the_language_of_an_old_prompt_is_told(
    tiny_whisper: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stored = configs(tiny_whisper)["generation_config.json"]
    german = stored["lang_to_id"]["<|de|>"]
    translate = stored["task_to_id"]["translate"]
    forced = {"forced_decoder_ids": [[1, german], [2, translate]], "language": None, "task": None}
    whisper.check_decoding(configs(tiny_whisper, **forced), Decoding())
    assert "{language: de, task: translate}" in caplog.text
    caplog.clear()
    whisper.check_decoding(
        configs(tiny_whisper, **forced), Decoding(language="de", task="translate")
    )
    usual = {"forced_decoder_ids": [[1, None], [2, stored["task_to_id"]["transcribe"]]]}
    whisper.check_decoding(configs(tiny_whisper, **forced | usual), Decoding())
    assert not caplog.text


@pytest.mark.parametrize("wrong", [{"language": "klingon"}, {"language": ["en"]}, {"task": "sing"}])
def test_a_prompt_that_the_checkpoint_cannot_have(
    tiny_whisper: Path, wrong: dict[str, Any]
) -> None:
    with pytest.raises(CheckpointError, match=r"generation_config\.json: its"):
        whisper.check_decoding(configs(tiny_whisper, **wrong), Decoding())
    whisper.check_decoding(configs(tiny_whisper, **wrong), multilingual())


def test_more_tokens_than_fit_are_refused(tiny_whisper: Path) -> None:
    whisper.check_decoding(configs(tiny_whisper), Decoding(max_new_tokens=60))
    recogniser = load_original(tiny_whisper, threads=1)
    for tokens in (61, 448, 10**12):
        with pytest.raises(RecipeError, match="decodes at most 60"):
            whisper.check_decoding(configs(tiny_whisper), Decoding(max_new_tokens=tokens))
    for wrong in (0, -1, 61, 10**12, 2.5, "3", True):
        with pytest.raises(RecipeError, match="max_new_tokens"):
            recogniser.transcribe(sounds(1.0)[0], sampling_rate=16000, max_new_tokens=wrong)
    (found,) = recogniser.transcribe(sounds(1.0), sampling_rate=16000, max_new_tokens=60)
    assert found.text
