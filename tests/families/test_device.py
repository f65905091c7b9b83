"""Whisper decoded on a device, with eager parts in its place: its tokens are transformers' own."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from exporter.families.whisper import family as whisper
from exporter.families.whisper.decoding.settings import options_of, own_settings
from exporter.families.whisper.decoding.transcribe import text_of
from exporter.families.whisper.engine import device_stream
from exporter.families.whisper.engine.device_engine import DeviceEngine, array_engine
from exporter.families.whisper.engine.eager import eager_engine
from exporter.formats import audio
from exporter.recipe import Decoding
from exporter.runtime.transcript import Audio, Transcript
from exporter.runtime.whisper.rules import Rules
from exporter.runtime.whisper.search import greedy
from exporter.runtime.whisper.streams.stream import Ask
from exporter.runtime.whisper.transcribe import Whisper
from tests.support.whisper import device_cut, multilingual, recut, sounds

DEMO = "recipes/demo"


@pytest.fixture(scope="module")
def demo(repository: Path) -> Path:
    """The trained checkpoint of the demo, which ends its texts by itself."""
    return repository / DEMO / "whisper"


@cache
def clips(folder: Path) -> list[Audio]:
    """Clips within the demo's window, of texts of different lengths."""
    paths = sorted((folder.parent / "clips").glob("short-*.flac"))[:9]
    return [audio.read(path, 16_000) for path in paths]


@cache
def original(folder: Path) -> Any:
    return whisper.open_original(folder)


@cache
def device(folder: Path) -> Any:
    return recut(folder, "device")


@cache
def eager(folder: Path) -> Any:
    model = whisper.open_original(folder)
    model.engine = eager_engine(model)
    return model


@cache
def processor(folder: Path) -> Any:
    return whisper.processor(folder)


def texts(model: Any, folder: Path, heard: Any, decoding: Decoding) -> list[Transcript]:
    return whisper.transcribe(model, processor(folder), heard, decoding)


def spans(one: Transcript) -> list[tuple[float, float, str]]:
    return [(each.start_s, each.end_s, each.text) for each in one.segments]


BY_GENERATE = {
    "greedy": multilingual(batch_size=3),
    "more rows than a step has": multilingual(batch_size=50),
    "beams": multilingual(num_beams=5),
    "beams of several windows": multilingual(num_beams=3, batch_size=2),
    "more beams than a step has": multilingual(num_beams=3, batch_size=4),
    "timestamps": multilingual(timestamps=True, batch_size=4),
    "a prompt": multilingual(initial_prompt="my mother will visit", batch_size=2),
    "a language that is found": Decoding(batch_size=4),
    "rules that look at all tokens": multilingual(repetition_penalty=1.3, batch_size=2),
    "repeats": multilingual(no_repeat_ngram_size=3, num_beams=2),
}


@pytest.mark.parametrize("case", BY_GENERATE)
def test_tokens_are_those_of_generate(demo: Path, case: str) -> None:
    decoding = BY_GENERATE[case]
    expected = texts(original(demo), demo, clips(demo), decoding)
    found = texts(device(demo), demo, clips(demo), decoding)
    assert [one.tokens for one in found] == [one.tokens for one in expected]
    assert [spans(one) for one in found] == [spans(one) for one in expected]
    assert all(one.tokens for one in found)


LIKE_OTHERS = {
    "thresholds": multilingual(
        temperatures=[0.0, 0.4],
        logprob_threshold=-0.05,
        compression_ratio_threshold=2.0,
        no_speech_threshold=0.5,
        batch_size=4,
    ),
    "silence alone": multilingual(no_speech_threshold=0.0, batch_size=4),
    "scored beams": multilingual(num_beams=5, logprob_threshold=-9.0, temperatures=[0.0, 0.2]),
    "patience": multilingual(num_beams=4, patience=1.5),
    "draws": multilingual(temperatures=[0.6], best_of=2, batch_size=2),
    "words": multilingual(word_timestamps=True, batch_size=4),
    "languages of windows": Decoding(multilingual=True, batch_size=3),
}


@pytest.mark.parametrize("case", LIKE_OTHERS)
def test_texts_are_those_of_an_engine_of_the_cpu(demo: Path, case: str) -> None:
    decoding = LIKE_OTHERS[case]
    expected = texts(eager(demo), demo, clips(demo), decoding)
    found = texts(device(demo), demo, clips(demo), decoding)
    assert_alike(found, expected)


def assert_alike(found: list[Transcript], expected: list[Transcript]) -> None:
    assert [one.tokens for one in found] == [one.tokens for one in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.language == theirs.language
        assert len(ours.segments) == len(theirs.segments)
        for one, other in zip(ours.segments, theirs.segments, strict=True):
            assert (one.start_s, one.end_s, one.text) == (other.start_s, other.end_s, other.text)
            assert one.temperature == other.temperature
            for name in ("avg_logprob", "no_speech_prob", "compression_ratio"):
                assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-4)
            words = [[w.text for w in each.words or ()] for each in (one, other)]
            assert words[0] == words[1]
            times = [[w.start_s for w in each.words or ()] for each in (one, other)]
            assert times[0] == pytest.approx(times[1], abs=0.021)


@pytest.mark.parametrize("form", ["sequential", "chunked"])
@pytest.mark.parametrize("conditioned", [False, True])
def test_long_recordings_and_short_ones_in_one_call(
    demo: Path, form: str, conditioned: bool
) -> None:
    short = clips(demo)
    long = np.concatenate(short[:4]), np.concatenate(short[3:8])
    heard = [short[0], long[0], short[1], long[1], short[2]]
    more: dict[str, Any] = {"condition_on_previous": conditioned} if form == "sequential" else {}
    if form == "chunked":
        more = {"vad": True, "timestamps": conditioned}
    decoding = multilingual(batch_size=3, long_form=form, **more)
    expected = texts(eager(demo), demo, heard, decoding)
    found = texts(device(demo), demo, heard, decoding)
    assert_alike(found, expected)
    assert len(found[1].segments) > 1


@pytest.mark.parametrize("most", [1, 2, 3, 8, 13])
def test_a_text_is_as_long_as_it_may_be(tiny_whisper: Path, most: int) -> None:
    decoding = multilingual(max_new_tokens=most, batch_size=2)
    heard = sounds(1.0, 0.5, 2.0)
    expected = texts(original(tiny_whisper), tiny_whisper, heard, decoding)
    found = texts(device(tiny_whisper), tiny_whisper, heard, decoding)
    assert [one.tokens for one in found] == [one.tokens for one in expected]


@pytest.mark.parametrize("narrow", [False, True])
def test_a_checkpoint_of_another_shape(english_whisper: Path, narrow: bool) -> None:
    model = original(english_whisper)
    functions = device_cut(whisper.open_original(english_whisper), (1, 2), narrow=narrow)
    ours = whisper.assemble(english_whisper, functions, narrow=narrow)
    heard = sounds(1.0, 6.0, 8.0)
    expected = texts(model, english_whisper, heard, Decoding(batch_size=2))
    found = texts(ours, english_whisper, heard, Decoding(batch_size=2))
    assert [one.tokens for one in found] == [one.tokens for one in expected]


class Streams:
    """Streams of a model, beside its search on the host."""

    def __init__(self, folder: Path, model: Any = None) -> None:
        self.folder, self.model = folder, model or device(folder)
        engine = array_engine(self.model.engine)
        assert isinstance(engine, DeviceEngine)
        self.engine = engine
        self.settings = own_settings(self.model, processor(folder).feature_extractor)
        self.encoded = engine.encode(self.settings.mel(clips(folder)))
        self.prompt = self.settings.init(
            self.settings.languages["en"], "transcribe", timestamps=False
        )

    def rules(self, **changes: Any) -> Rules:
        given = {"ends": self.settings.ends, "never": self.settings.never, **changes}
        return Rules(not_first=self.settings.not_first, max_length=48, **given)

    def on_the_host(self, window: int, rules: Rules) -> Any:
        hypotheses = self.engine.start(self.encoded[window : window + 1])
        prompts = np.array([self.prompt])
        scores = hypotheses.step(prompts)[:, -1]
        (found,) = greedy(hypotheses, scores, prompts, rules, scored=True)
        hypotheses.release()
        return found

    def streamed(self, windows: list[int], rules: Rules, rows: int) -> tuple[list[Any], int]:
        """Decode windows, each as soon as there is a row; return texts, and windows at a time."""
        stream = self.engine.stream(rules, rows, None)
        waiting, places, texts, most = [*windows], dict[int, int](), {}, 0
        while waiting or stream.running:
            some = [waiting.pop(0) for _ in range(min(stream.free, len(waiting)))]
            asks = [Ask(self.encoded, window, self.prompt, 0) for window in some]
            if asks:
                places.update(zip(stream.add(asks), some, strict=True))
            most = max(most, stream.running)
            for told in stream.advance():
                texts[places[told.key]] = told.found
        stream.release()
        return [texts[window] for window in windows], most


@pytest.fixture(scope="module")
def streams(demo: Path) -> Streams:
    return Streams(demo)


@pytest.fixture(params=[1, 3, 8])
def looked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Steps from one look of the host to the next."""
    monkeypatch.setattr(device_stream, "_OFTEN", request.param)
    monkeypatch.setattr(device_stream, "_SELDOM", request.param)
    return request.param  # type: ignore[no-any-return]


def test_rows_that_end_go_on_with_the_next_window(streams: Streams, looked: int) -> None:
    windows = [*range(9)]
    alone = [streams.on_the_host(window, streams.rules()) for window in windows]
    assert len({len(found.tokens) for found in alone}) > 3
    for rows in (2, 8):
        found, at_a_time = streams.streamed(windows, streams.rules(), rows)
        assert [each.tokens for each in found] == [each.tokens for each in alone]
        assert all(each.ended for each in found)
        assert [each.logprob for each in found] == pytest.approx(
            [each.logprob for each in alone], abs=1e-4
        )
        assert at_a_time == rows


def test_rows_move_between_steps_of_several_sizes(demo: Path) -> None:
    """Rows that were moved and end write on to their caches, which none that runs may have."""
    model = whisper.assemble(demo, device_cut(whisper.open_original(demo), (1, 4)))
    streams = Streams(demo, model)
    alone = [streams.on_the_host(window, streams.rules()) for window in range(9)]
    short, *_, longer, longest = sorted(range(9), key=lambda n: len(alone[n].tokens))
    stream = streams.engine.stream(streams.rules(), 4, None)
    places, told = dict[int, int](), dict[int, Any]()

    def until(running: int, *windows: int) -> None:
        asks = [Ask(streams.encoded, window, streams.prompt, 0) for window in windows]
        places.update(zip(stream.add(asks), windows, strict=True))
        assert stream._rows is not None
        assert len(set(stream._rows.state["slots"].tolist())) == stream._rows.count
        while stream.running > running:
            told.update((each.key, each.found) for each in stream.advance())
        if running == 1:  # in a step of one row
            told.update((each.key, each.found) for each in stream.advance())

    until(1, short, short, short, longest)  # the last goes on alone
    until(2, short, longer, longest)  # it and the first of these end, in a step of four
    until(0, longest)
    stream.release()
    for key, found in told.items():
        assert found.tokens == alone[places[key]].tokens
        assert found.logprob == pytest.approx(alone[places[key]].logprob, abs=1e-4)
    assert told.keys() == places.keys()


def test_the_host_stops_late_wherever_a_text_ends(streams: Streams, looked: int) -> None:
    """Of texts, tokens are made the end; those that the device says after it are not told."""
    seen = set[int]()
    for window in range(4):
        whole = streams.on_the_host(window, streams.rules()).tokens
        for place, token in enumerate(whole):
            if token in whole[:place] or place % 8 in seen:
                continue
            seen.add(place % 8)
            ends = (token, *streams.settings.ends)
            (found,), _ = streams.streamed([window], streams.rules(ends=ends), 1)
            assert (found.tokens, found.ended) == (whole[:place], True)
            (found,), _ = streams.streamed([window], streams.rules(max_new=place + 1), 1)
            assert (found.tokens, found.ended) == (whole[: place + 1], False)
    assert seen == set(range(8))


def test_windows_are_encoded_together_ahead_of_their_rows(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = recut(demo, "device")
    encoded, usual = list[int](), model.engine.functions["encoder"]

    def counting(inputs: Any, wanted: Any = None) -> Any:
        encoded.append(len(inputs["input_features"]))
        return usual(inputs, wanted)

    model.engine.functions["encoder"] = counting
    found = texts(model, demo, clips(demo), multilingual(batch_size=5))
    assert sum(encoded) == len(clips(demo))
    assert max(encoded) > 1
    assert [one.tokens for one in found] == [
        one.tokens for one in texts(device(demo), demo, clips(demo), multilingual())
    ]


def test_segments_come_as_they_are_decoded(demo: Path) -> None:
    model, long = device(demo), np.concatenate(clips(demo)[:4])
    settings = own_settings(model, processor(demo).feature_extractor)
    ours = Whisper(array_engine(model.engine), settings, text_of(processor(demo).tokenizer))
    options = options_of(model, multilingual())
    coming = ours.segments(long, options)
    first = next(coming)
    coming.close()  # the caches are given back
    (whole,) = ours.transcribe([long], options)
    assert whole.segments[0] == first
    assert len(whole.segments) > 1


def test_what_an_audio_raises_is_raised(demo: Path) -> None:
    class Sound:
        def __len__(self) -> int:
            msg = "no such device"
            raise OSError(msg)

    with pytest.raises(OSError, match="no such device"):
        texts(device(demo), demo, [clips(demo)[0], Sound()], multilingual())
    found = texts(device(demo), demo, clips(demo)[:1], multilingual())
    assert found[0].tokens


def test_a_captured_step_is_run_again_with_the_same_tensors(demo: Path) -> None:
    """Steps may be recorded while their tensors are idle: several calls change nothing."""
    functions = device_cut(whisper.open_original(demo), (1, 5))
    replayed = []

    class Captured:
        def __init__(self, name: str) -> None:
            self.device, self._usual, self._name = torch.device("cpu"), functions[name], name

        def __call__(self, inputs: Any, wanted: Any = None) -> Any:
            raise NotImplementedError

        def capture(self, inputs: Any) -> Any:
            for _ in range(3):
                self._usual(inputs)

            def again() -> Any:
                replayed.append(self._name)
                return self._usual(inputs)

            return again

    captured = {n: Captured(n) if n.startswith("step_") else f for n, f in functions.items()}
    model = whisper.assemble(demo, captured)
    for decoding in (multilingual(batch_size=3), multilingual(num_beams=5)):
        found = texts(model, demo, clips(demo)[:5], decoding)
        expected = texts(device(demo), demo, clips(demo)[:5], decoding)
        assert [one.tokens for one in found] == [one.tokens for one in expected]
    assert set(replayed) == {"step_1", "step_5"}
