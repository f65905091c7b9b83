"""Language and task: what a checkpoint does not have is refused before anything is built."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporter.errors import CheckpointError, RecipeError
from exporter.families.base import Configs
from exporter.families.whisper import family as whisper
from exporter.recipe import Decoding
from exporter.runtime.decoding import refuse_foreign

ENGLISH = {"is_multilingual": False, "no_timestamps_token_id": 7}
SEVERAL = {
    "is_multilingual": True,
    "no_timestamps_token_id": 7,
    "lang_to_id": {"<|en|>": 1, "<|de|>": 2, "<|my|>": 3},
    "task_to_id": {"transcribe": 4, "translate": 5},
}
LARGE = {"vocab_size": 51866, "encoder_layers": 32, "decoder_layers": 32}


def configs(config: dict[str, Any], generation: dict[str, Any]) -> Configs:
    return {"config.json": config, "generation_config.json": generation}


@pytest.mark.parametrize(
    ("generation", "decoding", "told"),
    [
        (ENGLISH, {"language": "en"}, "takes no language"),
        (ENGLISH, {"language": "en", "task": "transcribe"}, "takes no language or task"),
        (SEVERAL, {"language": "xx"}, "'xx': de, en, my"),
        (SEVERAL, {"language": "english"}, "'english': did you mean 'en'"),
        (SEVERAL, {"language": "Burmese"}, "'Burmese': did you mean 'my'"),
        (SEVERAL, {"language": "EN"}, "did you mean 'en'"),
        (SEVERAL, {"language": "de-AT"}, "did you mean 'de'"),
        (SEVERAL, {"language": "<|de|>"}, "did you mean 'de'"),
        (
            SEVERAL | {"task_to_id": {"transcribe": 4}},
            {"task": "translate"},
            "no task 'translate': transcribe",
        ),
    ],
)
def test_decoding_that_does_not_fit(
    generation: dict[str, Any], decoding: dict[str, Any], told: str
) -> None:
    with pytest.raises(RecipeError, match=re.escape(told)):
        whisper.check_decoding(configs(LARGE, generation), Decoding(**decoding))


@pytest.mark.parametrize("key", ["lang_to_id", "task_to_id", "no_timestamps_token_id"])
def test_a_prompt_that_would_be_incomplete_is_refused(key: str) -> None:
    old = {name: value for name, value in SEVERAL.items() if name != key}
    with pytest.raises(CheckpointError, match=rf"generation_config\.json has no {key}"):
        whisper.check_decoding(configs(LARGE, old), Decoding())


def test_an_old_checkpoint_is_known_by_its_vocabulary() -> None:
    old = {"no_timestamps_token_id": 50362}
    whisper.check_decoding(configs(LARGE | {"vocab_size": 51864}, old), Decoding())
    with pytest.raises(RecipeError, match="takes no language"):
        whisper.check_decoding(configs(LARGE | {"vocab_size": 51864}, old), Decoding(language="en"))
    with pytest.raises(CheckpointError, match="has no lang_to_id, task_to_id"):
        whisper.check_decoding(configs(LARGE | {"vocab_size": 51865}, old), Decoding())


def test_an_english_only_checkpoint_has_one_language() -> None:
    english, several = configs(LARGE, ENGLISH), configs(LARGE, SEVERAL)
    assert whisper.text_language(english, Decoding(), None) == "en"
    assert whisper.text_language(several, Decoding(), None) is None
    assert whisper.text_language(several, Decoding(), "de") == "de"
    assert whisper.text_language(several, Decoding(language="fr"), "de") == "fr"
    assert whisper.text_language(several, Decoding(language="fr", task="translate"), "de") == "en"


def test_decoding_that_fits() -> None:
    whisper.check_decoding(configs(LARGE, ENGLISH), Decoding())
    whisper.check_decoding(configs(LARGE, SEVERAL), Decoding())
    whisper.check_decoding(configs(LARGE, SEVERAL), Decoding(language="en", task="translate"))


def test_translating_with_a_distilled_decoder_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    turbo = LARGE | {"decoder_layers": 4}
    whisper.check_decoding(configs(turbo, SEVERAL), Decoding(task="transcribe"))
    assert not caplog.text
    whisper.check_decoding(configs(turbo, SEVERAL), Decoding(task="translate"))
    assert "were not trained to translate" in caplog.text


def test_options_of_other_families_are_refused() -> None:
    refuse_foreign(vars(Decoding(batch_size=3, num_beams=1)), ("batch_size",))
    with pytest.raises(RecipeError, match=r"no decoding option `language`.*it has: batch_size"):
        refuse_foreign(vars(Decoding(language="en", timestamps=True)), ("batch_size",))


@pytest.fixture
def folder(tiny_whisper: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_whisper, tmp_path / "checkpoint"))


def changed(folder: Path, **values: Any) -> dict[str, Any]:
    """Change a folder's generation config; None takes a key away."""
    path = folder / "generation_config.json"
    new = json.loads(path.read_text()) | values
    new = {key: value for key, value in new.items() if value is not None}
    path.write_text(json.dumps(new))
    return new


def test_a_tokenizer_of_the_other_kind_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    whisper.check_processor(folder, config)
    start = config["decoder_start_token_id"]
    changed(folder, decoder_start_token_id=start - 1)
    told = f"its <|startoftranscript|> is number {start}, the model's {start - 1}"
    with pytest.raises(CheckpointError, match=re.escape(told)):
        whisper.check_processor(folder, config)


def test_the_task_is_always_in_the_prompt(folder: Path) -> None:
    generation = changed(folder, task=None, language=None)
    tasks, languages = generation["task_to_id"], generation["lang_to_id"]
    model = whisper.open_original(folder)
    # What old checkpoints hold in config.json, and transformers follows if nothing is asked.
    model.config.forced_decoder_ids = [[1, languages["<|de|>"]], [2, tasks["translate"]]]
    prompts: list[list[int]] = []
    model.model.decoder.register_forward_pre_hook(
        lambda _module, _arguments, given: prompts.append(given["input_ids"][0].tolist()),
        with_kwargs=True,
    )
    silence = np.zeros(16000, dtype=np.float32)
    processor = whisper.processor(folder)
    whisper.transcribe(model, processor, [silence], Decoding(language="en"))
    assert prompts[0][1:3] == [languages["<|en|>"], tasks["transcribe"]]
    prompts.clear()
    whisper.transcribe(model, processor, [silence], Decoding())
    prompt = next(ids for ids in prompts if len(ids) > 1)  # the first call finds the language
    assert prompt[2] == tasks["transcribe"]
