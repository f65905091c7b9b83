"""Words added to tokenizer and model are text: what transformers makes of the tokens."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from exporter.families.whisper import family as whisper
from exporter.recipe import Decoding
from tests.support.newer import as_transformers_5
from tests.support.whisper import multilingual, recut, sounds
from tests.support.words import PADDING, SOUND, WORDS, add_words

# Positions after the prompt of four tokens; the model's own words stand between.
SCRIPT = {4: WORDS[0], 6: SOUND, 8: None, 10: WORDS[1]}
DOUBLE = {4: WORDS[0], 5: WORDS[1]}
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt"),
)


def written(folder: Path, audio: list[Any], decoding: Decoding) -> list[str]:
    """What transformers writes without us: generate, then decode."""
    model, processor = whisper.open_original(folder), whisper.processor(folder)
    window = processor.feature_extractor.n_samples
    long = len(audio[0]) > window
    features = processor.feature_extractor(
        audio,
        sampling_rate=16_000,
        truncation=False,
        padding="longest" if long else "max_length",
        return_attention_mask=True,
        return_tensors="pt",
    )
    with torch.inference_mode():
        tokens = model.generate(
            features.input_features,
            attention_mask=features.attention_mask,
            language="en",
            task="transcribe",
            num_beams=decoding.num_beams,
            return_timestamps=long or decoding.timestamps,
        )
    return [text.strip() for text in processor.batch_decode(tokens, skip_special_tokens=True)]


@pytest.fixture(scope="module")
def folders(tiny_whisper: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints whose added words stand apart from each other, and in a row."""
    root = tmp_path_factory.mktemp("words")

    def copy(name: str, of: Path) -> Path:
        return Path(shutil.copytree(of, root / name))

    apart = add_words(copy("apart", tiny_whisper), SCRIPT)
    double = add_words(copy("double", tiny_whisper), DOUBLE)
    return {"apart": apart, "double": double}


@pytest.mark.parametrize("name", ["apart", "double"])
@pytest.mark.parametrize(
    ("seconds", "options", "kinds"),
    [
        ((1.0, 2.0), {"batch_size": 2}, ("dynamic", "static", "original")),
        ((1.0, 2.0), {"num_beams": 2}, ("dynamic",)),
        ((1.5,), {"timestamps": True}, ("static", "original")),
        ((5.0,), {}, ("dynamic", "original")),
    ],
    ids=["batch", "beams", "timestamps", "long"],
)
def test_the_text_is_transformers_own(
    folders: dict[str, Path], name: str, seconds: Any, options: Any, kinds: tuple[str, ...]
) -> None:
    folder, audio, decoding = folders[name], sounds(*seconds), multilingual(**options)
    expected, processor = written(folder, audio, decoding), whisper.processor(folder)
    assert all("zebra" in text for text in expected)
    assert not any(SOUND in text or "<|" in text for text in expected)
    for kind in kinds:
        model: Any = whisper.open_original(folder)
        if kind != "original":
            model = recut(folder, kind)  # type: ignore[arg-type]
        told = whisper.transcribe(model, processor, audio, decoding)
        assert [one.text for one in told] == expected, kind


def test_tokens_are_those_with_text(folders: dict[str, Path]) -> None:
    processor = whisper.processor(folders["apart"])
    model = recut(folders["apart"], "dynamic")
    (script,) = whisper.transcribe(model, processor, sounds(1.0), multilingual())
    vocabulary = processor.tokenizer.get_vocab()
    assert {vocabulary[word] for word in WORDS} <= set(script.tokens)
    assert vocabulary[SOUND] not in script.tokens
    assert max(script.tokens) < len(processor.tokenizer)
    assert model.config.vocab_size == len(processor.tokenizer) + PADDING


def test_a_window_with_added_words_is_decoded_once(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = recut(folders["apart"], "dynamic"), whisper.processor(folders["apart"])
    monkeypatch.setattr(model, "generate", None)
    assert "zebra" in whisper.transcribe(model, processor, sounds(1.0), multilingual())[0].text


def test_words_in_a_folder_that_the_installed_release_saved(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """Release 5 lists the added special tokens under another name, and drops files."""
    from exporter.recognition.load import load_original

    saved = Path(shutil.copytree(folders["apart"], tmp_path / "saved"))
    for name in TOKENIZER_FILES:
        (saved / name).unlink(missing_ok=True)
    whisper.processor(folders["apart"]).tokenizer.save_pretrained(saved)
    before, after = (load_original(folder) for folder in (folders["apart"], saved))
    assert after.decode(sounds(1.0), multilingual()) == before.decode(sounds(1.0), multilingual())


def test_words_in_a_folder_of_transformers_5(folders: dict[str, Path], tmp_path: Path) -> None:
    from exporter.recognition.load import load_original

    before = load_original(folders["apart"]).decode(sounds(1.0), multilingual())
    newer = as_transformers_5(Path(shutil.copytree(folders["apart"], tmp_path / "newer")))
    assert load_original(newer).decode(sounds(1.0), multilingual()) == before
