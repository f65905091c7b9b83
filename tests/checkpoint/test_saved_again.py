"""What the installed release of transformers saves is the checkpoint that it has opened."""

from pathlib import Path

import pytest
from transformers import (
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
)

from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.recipe import Decoding
from exporter.recognition.load import load_original
from exporter.runtime.ctc.tokens import read_tokens
from tests.support.tiny_ctc import make_ctc, tones
from tests.support.whisper import multilingual, sounds


@pytest.fixture
def letters(tmp_path: Path) -> tuple[Path, Path]:
    """A CTC checkpoint, and the same saved again."""
    folder, saved = make_ctc(tmp_path / "letters"), tmp_path / "saved"
    Wav2Vec2ForCTC.from_pretrained(folder).save_pretrained(saved)
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(folder)
    tokenizer = Wav2Vec2CTCTokenizer.from_pretrained(folder)
    Wav2Vec2Processor(feature_extractor=extractor, tokenizer=tokenizer).save_pretrained(saved)
    return folder, saved


def test_whisper(tiny_whisper: Path, tmp_path: Path) -> None:
    WhisperForConditionalGeneration.from_pretrained(tiny_whisper).save_pretrained(tmp_path)
    WhisperProcessor.from_pretrained(tiny_whisper).save_pretrained(tmp_path)
    before, after = (load_original(folder) for folder in (tiny_whisper, tmp_path))
    heard = sounds(1.0, 3.0)
    assert after.decode(heard, multilingual()) == before.decode(heard, multilingual())
    opened = open_checkpoint(str(tmp_path))
    assert opened.config["d_model"] == open_checkpoint(str(tiny_whisper)).config["d_model"]


def test_ctc(letters: tuple[Path, Path]) -> None:
    """Release 5 counts the delimiter of words among the special tokens; it is still written."""
    before, after = (load_original(folder) for folder in letters)
    heard = [tones(1.0, 1), tones(2.0, 2)]
    assert after.decode(heard, Decoding()) == before.decode(heard, Decoding())
    alphabets = [read_tokens(folder, pieces=False).alphabet() for folder in letters]
    assert alphabets[0] == alphabets[1]
    assert alphabets[1].text([5, 4, 6]) == "a b"
