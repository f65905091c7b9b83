"""Speech alone, chunks, clips, and several recordings at a time: what is heard, and its times.

Our decoding and `generate` on the same graphs and features, of a model whose logits are drawn, hear
a clip of the demo with pauses in it.
"""

import json
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pytest
import soundfile
import soxr

import exporter
from exporter.errors import RecipeError
from exporter.families.whisper import family as whisper
from exporter.formats import audio
from exporter.formats.audio import LongAudio, parts
from exporter.formats.audio.spans import Span
from exporter.recipe import Decoding
from exporter.runtime.transcript import Audio, Sound, Transcript
from exporter.runtime.vad.spans import Timeline, find_speech, merged
from exporter.runtime.whisper.options import Options, check_options
from tests.runtime.whisper.test_long_form import Pair, same_features
from tests.support.dice import dice
from tests.support.whisper import opened, recut, sounds

__all__ = ["same_features"]  # a fixture

RATE = 16_000
VAD = Options(vad=True, vad_min_silence_s=1.0, timestamps=True)
CHUNKED = Options(vad=True, long_form="chunked")


@pytest.fixture(scope="module")
def drawn(tiny_whisper: Path) -> Pair:
    """A model that finds a window's language, and many timestamps."""
    pair = Pair(dice(tiny_whisper, 2.5, -0.5), tiny_whisper)
    return pair.with_settings(language=None)


@pytest.fixture(scope="module")
def speech(repository: Path) -> Audio:
    """Two sentences, three seconds of quiet noise, and two more."""
    samples, _ = soundfile.read(repository / "recipes/demo/clips/long-002.flac", dtype="float32")
    pause = np.random.default_rng(0).normal(0, 0.001, 3 * RATE).astype(np.float32)
    return np.concatenate([pause, samples[: 5 * RATE], pause, samples[5 * RATE : 9 * RATE], pause])


def spans_of(pair: Pair, sound: Sound, options: Options) -> list[Span]:
    window_s = pair.settings.mel.samples / RATE
    return find_speech(sound, RATE, options.speech_rules(window_s))


def moved(transcript: Transcript, spans: Sequence[Span]) -> Transcript:
    """A transcript of joined spans with its times in the recording."""
    times = Timeline(spans, RATE)
    segments = []
    for one in transcript.segments:
        start_s = times.start_s(one.start_s)
        end_s = max(start_s, times.end_s(one.end_s))  # at a cut, a moment has no end before it
        segments.append(replace(one, start_s=start_s, end_s=end_s))
    return replace(transcript, segments=tuple(segments))


@pytest.mark.usefixtures("same_features")
@pytest.mark.parametrize("batch", [1, 3])
def test_speech_is_decoded_as_if_it_were_all(drawn: Pair, speech: Audio, batch: int) -> None:
    spans = spans_of(drawn, speech, VAD)
    assert [round(start / RATE) for start, _ in spans] == [3, 11]
    joined = parts(speech, spans)
    (alone,) = drawn.ours([joined], replace(VAD, vad=False))
    given: list[Sound] = [speech, speech[: 6 * RATE], speech]
    found = drawn.ours(given, replace(VAD, batch_size=batch))
    assert found[0] == found[2] == moved(alone, spans)
    assert found[0].segments[0].start_s >= 2.6
    assert max(one.end_s for one in found[0].segments) <= spans[-1][1] / RATE
    assert drawn.theirs(given, VAD) == found


@pytest.mark.usefixtures("same_features")
@pytest.mark.parametrize("options", [VAD, CHUNKED, replace(VAD, timestamps=False)], ids=str)
def test_without_speech_there_is_no_text(drawn: Pair, options: Options) -> None:
    quiet: list[Sound] = [*sounds(0.01, 9.0), np.zeros(RATE, np.float32)]
    nothing = Transcript("", (), ())
    assert drawn.ours(quiet, options) == drawn.theirs(quiet, options) == [nothing] * 3


@pytest.mark.usefixtures("same_features")
@pytest.mark.parametrize("timestamps", [False, True])
@pytest.mark.parametrize("language", [None, "en"])
def test_chunks_are_recordings_of_their_own(
    drawn: Pair, speech: Audio, timestamps: bool, language: str | None
) -> None:
    """But for the language, which is that of the first one."""
    options = replace(CHUNKED, timestamps=timestamps, language=language)
    window = drawn.settings.mel.samples
    chunks = merged(spans_of(drawn, speech, options), window)
    assert len(chunks) > 3
    cut = [parts(speech, chunk) for chunk in chunks]
    plain = replace(options, vad=False, long_form="sequential")
    if language is None:
        plain = replace(plain, language=found_language(drawn, cut[0]))
    alone = drawn.ours(cut, plain)
    (found,) = drawn.ours([speech], options)
    expected = [
        segment
        for transcript, spans in zip(alone, chunks, strict=True)
        for segment in moved(transcript, spans).segments
    ]
    assert list(found.segments) == expected
    assert found.tokens == tuple(token for one in alone for token in one.tokens)
    for size in (2, 5):
        several = replace(options, batch_size=size)
        assert drawn.ours([speech, speech[: 7 * RATE]], several)[0] == found
    assert drawn.theirs([speech], options) == [found]
    assert drawn.theirs([speech], replace(options, batch_size=3)) == [found]


def found_language(pair: Pair, sound: Sound) -> str:
    codes = [
        code
        for code in pair.settings.languages
        if pair.ours([sound], Options(language=code)) == pair.ours([sound], Options())
    ]
    return codes[0]


def test_segments_come_in_order_and_chunk_by_chunk(drawn: Pair, speech: Audio) -> None:
    timed = replace(CHUNKED, timestamps=True)
    for options in (VAD, timed, replace(timed, batch_size=2)):
        (whole,) = drawn.whisper.transcribe([speech], options)
        assert tuple(drawn.whisper.segments(speech, options)) == whole.segments
        starts = [one.start_s for one in whole.segments]
        assert starts == sorted(starts)


@pytest.fixture
def stored(speech: Audio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LongAudio:
    """The speech as a file that is read in blocks."""
    monkeypatch.setattr(audio, "WHOLE_S", 3)
    soundfile.write(tmp_path / "long.wav", speech, RATE, subtype="FLOAT")
    sound = audio.read(tmp_path / "long.wav", RATE)
    assert isinstance(sound, LongAudio)
    return sound


OPTIONS = [
    VAD,
    CHUNKED,
    replace(CHUNKED, timestamps=True, batch_size=3),
    Options(clip_timestamps=(2.0, 4.0, 6.5)),
    Options(clip_timestamps=(2.0, 8.0), long_form="chunked"),
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_long_file_has_the_text_of_its_samples(
    drawn: Pair, speech: Audio, stored: LongAudio, options: Options
) -> None:
    found = drawn.ours([stored], options)
    assert found == drawn.ours([speech], options)
    assert found[0].segments


@pytest.mark.usefixtures("same_features")
def test_clips(drawn: Pair, speech: Audio) -> None:
    """Windows begin at a clip's start and end at its end; times are those of the recording."""
    windows: list[tuple[int, int]] = []
    options = Options(clip_timestamps=(2.0, 3.5, 5.0, 11.0, 12.0), language="en")
    with Listening(drawn, windows):
        (found,) = drawn.ours([speech], options)
    length = len(speech) // 160
    clips = [(200, 350), (500, 1100), (1200, length)]
    for start, heard in windows:
        (clip,) = [clip for clip in clips if clip[0] <= start < clip[1]]
        assert start + heard <= clip[1]
    assert {start for start, _ in windows} >= {200, 500, 1200}
    assert found.segments[0].start_s >= 2.0
    assert not [one for one in found.segments if 3.5 < one.start_s < 5.0]
    every = replace(options, clip_timestamps=(0.0,))
    assert drawn.ours([speech], every) == drawn.ours([speech], Options(language="en"))
    beyond = replace(options, clip_timestamps=(60.0, 70.0))
    assert drawn.ours([speech], beyond) == [Transcript("", (), (), language="en")]


class Listening:
    """Notes the first frame and the frames of every window that is decoded."""

    def __init__(self, pair: Pair, windows: list[tuple[int, int]]) -> None:
        self._pair, self._windows = pair, windows
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> None:
        from exporter.runtime.whisper.long_form import Recording

        usual = Recording.window

        def window(one: Recording, size: int) -> Any:
            self._windows.append((one.seek, min(one.left, size)))
            return usual(one, size)

        self._patch.setattr(Recording, "window", window)

    def __exit__(self, *_: object) -> None:
        self._patch.undo()


def test_a_clip_longer_than_a_window_is_several_chunks(drawn: Pair, speech: Audio) -> None:
    options = Options(clip_timestamps=(1.0, 10.0), long_form="chunked", language="en")
    (found,) = drawn.ours([speech], options)
    window_s = drawn.settings.mel.samples / RATE
    assert [one.start_s for one in found.segments] == [*np.arange(1.0, 10.0, window_s)]
    assert 9.0 < found.segments[-1].end_s <= 10.0


TOGETHER: list[dict[str, Any]] = [
    {},
    {"num_beams": 3, "max_new_tokens": 12},
    {"condition_on_previous": True},
    {"condition_on_previous": True, "num_beams": 2, "initial_prompt": "red", "max_new_tokens": 12},
    {"logprob_threshold": -1.7, "no_speech_threshold": 0.005, "temperatures": (0.0, 0.3, 0.9)},
    {
        "compression_ratio_threshold": 0.74,
        "temperatures": (0.0, 0.3),
        "condition_on_previous": True,
        "max_new_tokens": 12,
    },
    {"vad": True, "timestamps": True},
]


@pytest.mark.parametrize("options", TOGETHER, ids=str)
def test_several_recordings_at_a_time(drawn: Pair, speech: Audio, options: dict[str, Any]) -> None:
    """Long and short ones, token for token and score for score as one by one."""
    given: list[Sound] = [*sounds(1.0, 13.3, 3.1, 9.0, 7.0, 0.5), speech]
    one_by_one = drawn.whisper.transcribe(given, Options(**options))
    for size in (2, 3, 8):
        found = drawn.whisper.transcribe(given, Options(**options, batch_size=size))
        for ours, alone in zip(found, one_by_one, strict=True):
            assert ours.tokens == alone.tokens
            assert [(s.start_s, s.end_s, s.text) for s in ours.segments] == [
                (s.start_s, s.end_s, s.text) for s in alone.segments
            ]
            scores = [s.avg_logprob for s in ours.segments if s.avg_logprob is not None]
            expected = [s.avg_logprob for s in alone.segments if s.avg_logprob is not None]
            assert np.allclose(scores, expected)


def test_windows_of_several_recordings_are_in_one_batch(
    drawn: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    usual = drawn.whisper.engine.encode

    def encode(features: Any) -> Any:
        encoded.append(len(features))
        return usual(features)

    monkeypatch.setattr(drawn.whisper.engine, "encode", encode)
    drawn.ours([*sounds(9.0, 9.5, 8.0, 7.0)], Options(batch_size=3))
    assert encoded[0] == 3
    assert max(encoded) == 3


def configs() -> Iterator[dict[str, Any]]:
    tokens = {"<|en|>": 5}
    yield {"max_target_positions": 448, "vocab_size": 51_865}
    yield {
        "is_multilingual": True,
        "lang_to_id": tokens,
        "task_to_id": {"transcribe": 7},
        "no_timestamps_token_id": 9,
    }


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"long_form": "chunked"}, "long_form: chunked cuts at silence: add vad: true"),
        ({"clip_timestamps": (1.0, 2.0), "vad": True}, "clip_timestamps and vad: give one"),
        ({"clip_timestamps": (2.0, 1.0)}, r"clip_timestamps \[2.0, 1.0\]: start and end"),
        ({"clip_timestamps": (0.0, 2.0, 2.0)}, "in the order of time"),
        (
            {"long_form": "chunked", "vad": True, "condition_on_previous": True},
            "chunked has no text before: leave out condition_on_previous",
        ),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        check_options(*configs(), Options(**options))


def test_padding_without_room_for_speech(drawn: Pair, speech: Audio) -> None:
    for road in (drawn.ours, drawn.theirs):
        with pytest.raises(
            RecipeError, match=r"vad_speech_pad_s 2: speech is cut into at most \d s"
        ):
            road([speech], replace(CHUNKED, vad_speech_pad_s=2.0))


def test_memory_does_not_follow_the_length(
    drawn: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a file: the probabilities of its frames are held, 125 bytes a second."""
    monkeypatch.setattr(audio, "WHOLE_S", 30)
    peaks = []
    for minutes in (1, 4):
        path = tmp_path / f"{minutes}.wav"
        noise = np.random.default_rng(0).normal(0, 0.01, minutes * 60 * RATE)
        soundfile.write(path, noise, RATE)
        sound = audio.read(path, RATE)
        assert isinstance(sound, LongAudio)
        tracemalloc.start()
        assert not drawn.ours([sound], VAD)[0].segments
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + (1 << 20)


@pytest.mark.slow
@pytest.mark.usefixtures("same_features")
def test_the_demo_hears_long_clips(repository: Path) -> None:
    """Of 229 words it misses 25 without looking for speech, and 12 to 15 with it."""
    folder = repository / "recipes/demo/whisper"
    demo = Pair(opened(folder, "eager"), folder)
    clips = repository / "recipes/demo/clips"
    rows = [json.loads(line) for line in (clips / "manifest.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["audio"].startswith("long")]
    given: list[Sound] = [soundfile.read(clips / r["audio"], dtype="float32")[0] for r in rows]
    texts = [row["text"] for row in rows]
    vad = Options(language="en", vad=True, batch_size=8)
    for options, most in (
        (Options(language="en"), 0.13),
        (vad, 0.09),
        (replace(vad, long_form="chunked"), 0.09),
        (replace(vad, long_form="chunked", timestamps=True), 0.09),
    ):
        found = demo.ours(given, options)
        assert jiwer.wer(texts, [one.text for one in found]) < most, options
        for one, sound in zip(found, given, strict=True):
            starts = [segment.start_s for segment in one.segments]
            assert starts == sorted(starts)
            assert one.segments[-1].end_s <= len(sound) / RATE
    assert demo.theirs(given[:1], options) == found[:1]


@pytest.mark.slow
def test_stereo_at_another_rate(repository: Path, tmp_path: Path) -> None:
    """Speech is looked for in what the model hears."""
    samples, _ = soundfile.read(repository / "recipes/demo/clips/long-001.flac", dtype="float32")
    pause = np.zeros(3 * RATE, np.float32)
    sound = np.concatenate([pause, samples[: 6 * RATE], pause])
    other = soxr.resample(np.stack([sound * 1.5, sound * 0.5], 1), RATE, 44_100)
    soundfile.write(tmp_path / "stereo.wav", other, 44_100, subtype="FLOAT")
    recogniser = exporter.load_original(repository / "recipes/demo/whisper")
    how = {"language": "en", "vad": True, "timestamps": True}
    plain = recogniser.transcribe(sound, sampling_rate=RATE, **how)
    found = recogniser.transcribe(tmp_path / "stereo.wav", **how)
    assert found.text == plain.text
    assert "radio" in found.text
    assert found.segments[0].start_s >= 2.6


@pytest.mark.parametrize(
    "how",
    [
        {"vad": True, "timestamps": True},
        {"vad": True, "long_form": "chunked", "batch_size": 2},
        {"vad": True, "long_form": "chunked", "language": None, "task": None},
        {"clip_timestamps": (2.0, 4.0, 6.5), "condition_on_previous": True, "max_new_tokens": 9},
        {"clip_timestamps": (2.0, 8.0), "long_form": "chunked"},
    ],
    ids=str,
)
def test_originals_hear_the_same(tiny_whisper: Path, speech: Audio, how: dict[str, Any]) -> None:
    """With its own features; where `generate` has no such option, our loop decodes it."""
    processor = whisper.processor(tiny_whisper)
    decoding = Decoding.model_validate({"language": "en", "task": "transcribe", **how})
    original = whisper.open_original(tiny_whisper)
    whisper.check_decoding(whisper.configs(original), decoding)
    found = whisper.transcribe(original, processor, [speech, speech[:RATE]], decoding)
    graphs = recut(tiny_whisper, "static")
    assert whisper.transcribe(graphs, processor, [speech, speech[:RATE]], decoding) == found
    assert found[0].tokens
