"""Recordings of any length: token for token and time for time as transformers' `generate`.

Both get the same features, of a model whose logits are drawn, so that windows, segments and
prompts are told apart; and of the demo, which hears.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from exporter.families.whisper import family
from exporter.families.whisper.decoding import original
from exporter.families.whisper.decoding.settings import own_settings
from exporter.families.whisper.decoding.transcribe import text_of
from exporter.families.whisper.engine.engine import ArrayEngine
from exporter.runtime.transcript import Sound, Transcript
from exporter.runtime.whisper.options import Options
from exporter.runtime.whisper.transcribe import Whisper
from tests.support.dice import dice
from tests.support.whisper import sounds


class Pair:
    """Our decoding, and transformers' on the same graphs and features."""

    def __init__(self, model: Any, folder: Path) -> None:
        processor = family.processor(folder)
        self.extractor, self.model = processor.feature_extractor, model
        self.settings, self.text = own_settings(model, self.extractor), text_of(processor.tokenizer)
        self.whisper = Whisper(ArrayEngine(model.engine), self.settings, self.text)

    def ours(self, audio: list[Sound], options: Options) -> list[Transcript]:
        return [without_scores(one) for one in self.whisper.transcribe(audio, options)]

    def theirs(self, audio: list[Sound], options: Options) -> list[Transcript]:
        """One by one, since transformers mixes up recordings that need another temperature."""
        return [
            transcript
            for sound in audio
            for transcript in original.transcribe(
                self.model, self.extractor, self.settings, self.text, [sound], options
            )
        ]


def without_scores(transcript: Transcript) -> Transcript:
    """The transcript without what `generate` does not tell."""
    none = dict.fromkeys(
        ("avg_logprob", "no_speech_prob", "compression_ratio", "temperature"), None
    )
    segments = tuple(replace(one, **none) for one in transcript.segments)  # type: ignore[arg-type]
    return replace(transcript, segments=segments)


@pytest.fixture
def same_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give `generate` our features of short recordings too."""

    def ours(extractor: Any, audio: Any, device: Any) -> Any:
        from exporter.runtime.whisper.log_mel import LogMel

        mel = LogMel(extractor.feature_size, window_s=extractor.chunk_length)
        features = torch.from_numpy(mel(audio))
        return features, torch.ones(len(features), features.shape[-1], dtype=torch.long)

    monkeypatch.setattr(original, "short_features", ours)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"num_beams": 3},
    {"task": "translate", "max_new_tokens": 9},
    {"condition_on_previous": True},
    {"condition_on_previous": True, "num_beams": 2, "initial_prompt": "red green"},
    {"condition_on_previous": True, "hotwords": "blue"},
    {"initial_prompt": "stop", "hotwords": "blue"},
    {"logprob_threshold": -3.3, "no_speech_threshold": 0.003},
    {"condition_on_previous": True, "logprob_threshold": -3.3, "no_speech_threshold": 0.003},
    {"compression_ratio_threshold": 0.9, "temperatures": (0.0, 1e-5)},
    {"condition_on_previous": True, "repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
]


@pytest.mark.usefixtures("same_features")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("language", [None, "de"])
def test_drawn_logits(tiny_whisper: Path, options: dict[str, Any], language: str | None) -> None:
    """Several windows with pairs, single timestamps and none at all."""
    pair = Pair(dice(tiny_whisper, 2.5, -0.5), tiny_whisper)
    pair.settings = pair.whisper.settings
    whole = replace(pair.settings, language=None)
    pair.settings = whole
    pair.whisper = replace(pair.whisper, settings=whole)
    given = Options(language=language, timestamps=True, **options)
    audio: list[Sound] = [*sounds(1.0, 13.3), *(s[::-1].copy() for s in sounds(9.987))]
    found = pair.ours(audio, given)
    expected = pair.theirs(audio, given)
    for one, other in zip(found, expected, strict=True):
        assert one.tokens == other.tokens
        assert one == other
    assert sum(len(one.segments) for one in found) > 5
