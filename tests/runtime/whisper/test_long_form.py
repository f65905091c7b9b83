"""Recordings of any length: token for token and time for time as transformers' `generate`.

Both get the same features, of a model whose logits are drawn, so that windows, segments and
prompts are told apart; and of the demo, which hears.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from exporter.errors import RecipeError
from exporter.families.whisper import family
from exporter.families.whisper.decoding import original, settings
from exporter.families.whisper.decoding.settings import own_settings
from exporter.families.whisper.decoding.transcribe import text_of
from exporter.families.whisper.engine.engine import ArrayEngine
from exporter.formats.audio import read, whole
from exporter.runtime.transcript import Sound, Transcript
from exporter.runtime.whisper import long_form
from exporter.runtime.whisper.options import Options
from exporter.runtime.whisper.transcribe import Whisper
from tests.support.dice import dice
from tests.support.whisper import opened, sounds


class Pair:
    """Our decoding, and transformers' on the same graphs and features."""

    def __init__(self, model: Any, folder: Path) -> None:
        processor = family.processor(folder)
        self.extractor, self.model = processor.feature_extractor, model
        self.settings, self.text = own_settings(model, self.extractor), text_of(processor.tokenizer)
        self.whisper = Whisper(ArrayEngine(model.engine), self.settings, self.text)

    def with_settings(self, **changes: Any) -> "Pair":
        """The same with other settings of the checkpoint."""
        other = copy.copy(self)
        other.settings = replace(self.settings, **changes)
        other.whisper = replace(self.whisper, settings=other.settings)
        return other

    def ours(self, audio: list[Sound], options: Options) -> list[Transcript]:
        return [without_scores(one) for one in self.whisper.transcribe(audio, options)]

    def theirs(self, audio: list[Sound], options: Options) -> list[Transcript]:
        """One by one, since transformers mixes up recordings that need another temperature."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(original, "with_settings", keeping_beams(options.num_beams))
            return [
                transcript
                for sound in audio
                for transcript in original.transcribe(
                    self.model, self.extractor, self.settings, self.text, [sound], options
                )
            ]


def keeping_beams(beams: int) -> Any:
    """`with_settings` of views that begin every window with a beam search, as we do.

    transformers' own end with the first window that is drawn.
    """

    def with_settings(model: Any, config: Any) -> Any:
        view = settings.with_settings(model, config)
        usual = view.generate_with_fallback

        def generate_with_fallback(*arguments: Any, **named: Any) -> Any:
            named["generation_config"].num_beams = beams
            return usual(*arguments, **named)

        view.generate_with_fallback = generate_with_fallback
        return view

    return with_settings


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
        from exporter.runtime.whisper.features.log_mel import LogMel

        mel = LogMel(extractor.feature_size, window_s=extractor.chunk_length)
        features = torch.from_numpy(mel(audio))
        return features, torch.ones(len(features), features.shape[-1], dtype=torch.long)

    monkeypatch.setattr(original, "short_features", ours)


PLAIN: dict[str, Any] = {}
OPTIONS: list[dict[str, Any]] = [
    PLAIN,
    {"num_beams": 3, "max_new_tokens": 12},
    {"task": "translate", "max_new_tokens": 9},
    {"condition_on_previous": True},
    {"condition_on_previous": True, "num_beams": 2, "initial_prompt": "red", "max_new_tokens": 12},
    {"condition_on_previous": True, "hotwords": "blue"},
    {"initial_prompt": "stop", "hotwords": "blue"},
    {"logprob_threshold": -1.7, "no_speech_threshold": 0.005},
    {"condition_on_previous": True, "logprob_threshold": -1.7, "no_speech_threshold": 0.005},
    {"condition_on_previous": True, "repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
]
AUDIO = sounds(1.0, 13.3)


@pytest.fixture(scope="module")
def drawn(tiny_whisper: Path) -> Pair:
    """A model that finds a window's language, and many timestamps."""
    pair = Pair(dice(tiny_whisper, 2.5, -0.5), tiny_whisper)
    return pair.with_settings(language=None)


@pytest.mark.usefixtures("same_features")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_drawn_logits(drawn: Pair, options: dict[str, Any]) -> None:
    """Windows with pairs, single timestamps and none, some of them silence."""
    given = Options(timestamps=True, **options)
    found = drawn.ours(AUDIO, given)
    assert found == drawn.theirs(AUDIO, given)
    assert sum(len(one.segments) for one in found) > 4
    plain = drawn.ours(AUDIO, Options(timestamps=True))
    assert (found == plain) == (options == PLAIN)
    assert drawn.ours(AUDIO, replace(given, language="de")) != found


@pytest.mark.usefixtures("same_features")
def test_a_failing_window_is_decoded_again(drawn: Pair) -> None:
    """At a temperature that draws the likeliest tokens, so that both draw alike; beams return."""
    failing = {"compression_ratio_threshold": 0.74, "num_beams": 3, "max_new_tokens": 12}
    given = Options(temperatures=(0.0, 1e-6), timestamps=True, **failing)  # type: ignore[arg-type]
    found = drawn.ours(AUDIO, given)
    assert found == drawn.theirs(AUDIO, given)
    assert found != drawn.ours(AUDIO, replace(given, temperatures=(0.0,)))
    told = drawn.whisper.transcribe(AUDIO, given)[1].segments
    assert {one.temperature for one in told} == {0.0, 1e-6}
    for one in told:
        assert one.compression_ratio is not None
        assert one.compression_ratio <= 0.74 or one.temperature


@pytest.mark.usefixtures("same_features")
def test_text_before_is_left_out_after_a_hot_window(drawn: Pair) -> None:
    """transformers compares with 0.5; the tokens drawn differ, so only the next prompt is seen."""
    prompts: list[list[int]] = []
    hot, cool = (
        Options(language="en", condition_on_previous=True, temperatures=(value,), timestamps=True)
        for value in (0.5, 0.4)
    )
    with listening(drawn, prompts):
        drawn.ours(AUDIO[1:], hot)
        assert {len(prompt) for prompt in prompts} == {3}
        prompts.clear()
        drawn.ours(AUDIO[1:], cool)
    assert len(prompts[0]) == 3
    assert min(len(prompt) for prompt in prompts[1:]) > 5


def test_drawn_texts_are_the_same_in_every_run(drawn: Pair) -> None:
    given = Options(temperatures=(1.0,), timestamps=True, batch_size=2)
    first = drawn.ours(AUDIO, given)
    assert drawn.ours(AUDIO, given) == first != drawn.ours(AUDIO, Options(timestamps=True))
    (alone,) = drawn.ours(AUDIO[:1], given)
    assert alone == first[0]


def test_segments_come_as_they_are_decoded(drawn: Pair) -> None:
    given = Options(timestamps=True)
    (whole,) = drawn.ours(AUDIO[1:], given)
    heard: list[int] = []
    engine = drawn.whisper.engine
    with pytest.MonkeyPatch.context() as patch:
        usual = engine.encode
        patch.setattr(engine, "encode", lambda given: heard.append(len(given)) or usual(given))
        coming = drawn.whisper.segments(AUDIO[1], given)
        first = next(coming)
        assert len(heard) == 1
        assert (first, *coming) == whole.segments
        assert len(heard) > 2


@pytest.mark.parametrize("size", [1, 2, 3])
def test_batches(drawn: Pair, size: int) -> None:
    audio: list[Sound] = sounds(1.0, 3.1, 9.0, 0.5, 2.2)
    for options in ({}, {"num_beams": 2, "max_new_tokens": 9}, {"timestamps": True}):
        given = Options(**options)  # type: ignore[arg-type]
        assert drawn.ours(audio, replace(given, batch_size=size)) == drawn.ours(audio, given)


def test_a_prefix_is_before_the_first_window_alone(drawn: Pair) -> None:
    """As text that was said: `generate` gets the same as the tokens that begin the window."""
    prompts: list[list[int]] = []
    given = Options(language="en", prefix="red blue", timestamps=True)
    prefix = drawn.text.encode(" red blue")
    with listening(drawn, prompts):
        (found,) = drawn.ours(AUDIO[1:], given)
    init = drawn.settings.init(drawn.settings.languages["en"], None, timestamps=True)
    assert prompts[0] == [*init, *prefix]
    assert set(map(tuple, prompts[1:])) == {(*init,)}
    assert not found.text.startswith("red blue")


def test_the_language_of_each_window(drawn: Pair) -> None:
    prompts: list[list[int]] = []
    with listening(drawn, prompts):
        drawn.ours(AUDIO[1:], Options(multilingual=True, timestamps=True))
    assert len({prompt[1] for prompt in prompts}) > 1


@pytest.mark.parametrize(("threshold", "count"), [(0.0, 1), (1.0, 3)])
def test_the_language_of_most_windows(drawn: Pair, threshold: float, count: int) -> None:
    """Nothing is above 1, so all three windows are listened to; each is likely enough for 0."""
    heard: list[int] = []
    (one, first), (other, most), *_ = drawn.settings.languages.items()
    found, chances = [first, most, most], [0.5, 0.6, 0.7]
    with pytest.MonkeyPatch.context() as patch:

        def find(engine: Any, encoded: Any, start: int, tokens: Any) -> Any:
            heard.append(start)
            place = len(heard) - 1
            return np.array([found[place]]), np.array([chances[place]])

        patch.setattr(long_form, "find_languages", find)
        prompts: list[list[int]] = []
        with listening(drawn, prompts):
            (told,) = drawn.ours(
                AUDIO[1:],
                Options(
                    language_detection_segments=3,
                    language_detection_threshold=threshold,
                    timestamps=True,
                ),
            )
    assert len(heard) == count
    assert {prompt[1] for prompt in prompts} == {first if count == 1 else most}
    assert told.language == (one if count == 1 else other)
    assert told.language_probability == (0.5 if count == 1 else 0.7)


def test_a_language_is_told_where_it_was_given_and_where_it_was_found(drawn: Pair) -> None:
    """As `info` of faster-whisper, whose probability of a given one is 1."""
    for audio in (AUDIO[:1], AUDIO[1:]):
        (given,) = drawn.ours(audio, Options(language="de"))
        assert (given.language, given.language_probability) == ("de", None)
        assert "language_probability" not in given.to_dict()
        found, by_generate = drawn.ours(audio, Options()), drawn.theirs(audio, Options())
        assert found[0].language == by_generate[0].language
        assert found[0].language in drawn.settings.languages
        assert 0 < (found[0].language_probability or 0) <= 1
        told = found[0].to_dict()
        assert told["language"] == found[0].language
        assert Transcript.of_dict(told) == found[0]


@contextmanager
def listening(pair: Pair, prompts: list[list[int]]) -> Iterator[None]:
    """Note the prompts of windows."""
    engine = pair.whisper.engine
    usual = engine.start

    def start(encoded: Any) -> Any:
        hypotheses = usual(encoded)
        step = hypotheses.step

        def noting(ids: Any) -> Any:
            if ids.shape[1] > 1:
                prompts.extend(ids.tolist())
            return step(ids)

        hypotheses.step = noting  # type: ignore[method-assign]
        return hypotheses

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "start", start)
        yield


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"prefix": "red " * 40}, "prefix has 4. tokens: at most 16"),
        ({"initial_prompt": "red " * 40}, r"have 4\d tokens: at most 31"),
        ({"hotwords": "red " * 20, "condition_on_previous": True}, "at most 15"),
        ({"initial_prompt": "a <|nospeech|>"}, "special token"),
    ],
)
def test_prompts_that_do_not_fit(drawn: Pair, options: dict[str, Any], told: str) -> None:
    for road in (drawn.ours, drawn.theirs):
        with pytest.raises(RecipeError, match=told):
            road(AUDIO[:1], Options(**options))


def test_a_checkpoint_without_a_token_for_text_before(drawn: Pair) -> None:
    without = drawn.with_settings(previous=None)
    with pytest.raises(RecipeError, match="startofprev"):
        without.ours(AUDIO[:1], Options(hotwords="red"))
    assert without.ours(AUDIO[:1], Options())


DEMO: list[dict[str, Any]] = [
    {"num_beams": 2},
    {"condition_on_previous": True, "initial_prompt": "open the door"},
    {"logprob_threshold": -0.2, "no_speech_threshold": 0.1, "compression_ratio_threshold": 2.4},
]


@pytest.fixture(scope="module")
def demo(repository: Path) -> Pair:
    """The demo as it is in torch-int8, but in float32."""
    folder = repository / "recipes/demo/whisper"
    return Pair(opened(folder, "eager"), folder).with_settings(language=None)


@pytest.mark.slow
@pytest.mark.parametrize("options", DEMO, ids=str)
def test_speech(demo: Pair, repository: Path, options: dict[str, Any]) -> None:
    """Twelve seconds, in windows of ten."""
    clip = repository / "recipes/demo/clips/long-002.flac"
    audio: list[Sound] = [whole(read(clip, 16_000))[: 12 * 16_000]]
    given = Options(timestamps=True, **options)
    found = demo.ours(audio, given)
    assert found == demo.theirs(audio, given)
    assert len(found[0].segments) > 3
    assert "kitchen lights" in found[0].text
