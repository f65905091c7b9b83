"""What a checkpoint's configs mean, as transformers reads them, and options that fit them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from exporter.errors import CheckpointError, IntegrityError, RecipeError
from exporter.families.whisper import family
from exporter.families.whisper.decoding.settings import own_settings
from exporter.runtime.whisper.language import LANGUAGE_CODES
from exporter.runtime.whisper.options import Options, check_options
from exporter.runtime.whisper.settings import CONFIG, EXTRACTOR, GENERATION, Settings


def changed(folder: Path, name: str, **values: Any) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture
def copied(tiny_whisper: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_whisper, tmp_path / "checkpoint"))


def test_languages_are_transformers_own() -> None:
    assert LANGUAGE_CODES == TO_LANGUAGE_CODE


@pytest.mark.parametrize("name", ["tiny_whisper", "english_whisper"])
def test_files_and_open_models_say_the_same(request: pytest.FixtureRequest, name: str) -> None:
    folder: Path = request.getfixturevalue(name)
    model, processor = family.open_original(folder), family.processor(folder)
    assert Settings.read(folder) == own_settings(model, processor.feature_extractor)


@pytest.mark.parametrize("times", [False, True])
@pytest.mark.parametrize("task", [None, "translate"])
def test_prompts_are_transformers_own(
    tiny_whisper: Path, english_whisper: Path, task: str | None, times: bool
) -> None:
    for folder in (tiny_whisper, english_whisper):
        model = family.open_original(folder)
        settings, config = Settings.read(folder), model.generation_config
        config.return_timestamps = times
        if settings.languages:
            config.language, config.task = "de", task or "transcribe"
        expected = model._retrieve_init_tokens(
            None,
            batch_size=1,
            generation_config=config,
            config=model.config,
            num_segment_frames=0,
            kwargs={},
        )
        language = settings.languages.get("de")
        assert settings.init(language, task, timestamps=times) == expected[0].tolist()


@pytest.mark.parametrize("name", ["german", "German", "<|de|>", "de"])
def test_a_language_by_any_name(copied: Path, name: str) -> None:
    changed(copied, GENERATION, language=name)
    assert Settings.read(copied).language == "de"


def test_configs_of_before_a_key(copied: Path) -> None:
    """Old ones have neither the token for text before, nor an end, nor whether English is all."""
    whole = Settings.read(copied)
    assert whole.previous is not None
    never = [*whole.never, whole.previous, whole.no_speech]
    changed(
        copied,
        GENERATION,
        prev_sot_token_id=None,
        suppress_tokens=never,
        eos_token_id=None,
        is_multilingual=None,
    )
    old = Settings.read(copied)
    assert (old.previous, old.ends, old.languages) == (whole.previous, whole.ends, whole.languages)
    changed(copied, GENERATION, suppress_tokens=None)
    assert Settings.read(copied).previous is None


@pytest.mark.parametrize(
    ("name", "values", "told"),
    [
        (GENERATION, {"no_timestamps_token_id": None}, "no_timestamps_token_id"),
        (CONFIG, {"decoder_start_token_id": None}, "decoder_start_token_id"),
        (EXTRACTOR, {"dither": 0.1}, "dither is 0.1"),
        (EXTRACTOR, {"padding_side": "left"}, "padding_side is 'left'"),
    ],
)
def test_configs_that_mean_nothing_here(
    copied: Path, name: str, values: dict[str, Any], told: str
) -> None:
    changed(copied, GENERATION, decoder_start_token_id=None)  # then it is the other file's
    assert Settings.read(copied)
    changed(copied, name, **values)
    with pytest.raises(IntegrityError, match=told):
        Settings.read(copied)
    (copied / name).write_text("[]")
    with pytest.raises(IntegrityError, match="a JSON object is expected"):
        Settings.read(copied)
    (copied / name).write_text("[" * 99_999)
    with pytest.raises(IntegrityError, match="not readable as JSON"):
        Settings.read(copied)
    (copied / name).unlink()
    with pytest.raises(IntegrityError, match=name):
        Settings.read(copied)


def checked(folder: Path, **options: Any) -> None:
    config, generation = (json.loads((folder / n).read_text()) for n in (CONFIG, GENERATION))
    check_options(config, generation, Options(**options))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"language": "de", "multilingual": True}, "leave language out"),
        ({"patience": 2.0}, "patience is for a beam search"),
        ({"best_of": 5}, "best_of is for drawn texts"),
        ({"max_new_tokens": 45, "prefix": "a"}, "at most 44"),
        ({"max_new_tokens": 61}, "at most 60"),
        ({"max_new_tokens": 29, "condition_on_previous": True}, "at most 28"),
        ({"max_new_tokens": 29, "initial_prompt": "a"}, "at most 28"),
        ({"max_new_tokens": 14, "hotwords": "a", "condition_on_previous": True}, "at most 13"),
        ({"language": "german"}, "did you mean 'de'"),
        ({"task": "sing"}, "no task 'sing'"),
    ],
)
def test_options_that_do_not_fit(tiny_whisper: Path, options: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        checked(tiny_whisper, **options)


def test_options_that_fit(tiny_whisper: Path, english_whisper: Path) -> None:
    checked(tiny_whisper, logprob_threshold=-1.0, no_speech_threshold=0.6, max_new_tokens=60)
    checked(tiny_whisper, hotwords="a", initial_prompt="b", max_new_tokens=28)
    checked(tiny_whisper, hotwords="a", condition_on_previous=True, max_new_tokens=13)
    checked(tiny_whisper, no_speech_threshold=0.6, multilingual=True)
    checked(tiny_whisper, hotwords="a", initial_prompt="b", condition_on_previous=True)
    checked(english_whisper, temperatures=(0.0, 0.2), best_of=5, num_beams=2, patience=1.5)
    with pytest.raises(RecipeError, match="takes no multilingual"):
        checked(english_whisper, multilingual=True)
    with pytest.raises(RecipeError, match="takes no language"):
        checked(english_whisper, language="en")


def test_an_old_prompt(copied: Path) -> None:
    changed(copied, GENERATION, lang_to_id=None)
    with pytest.raises(CheckpointError, match="has no lang_to_id"):
        checked(copied)
