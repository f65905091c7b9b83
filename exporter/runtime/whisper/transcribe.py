"""Transcribe recordings with a Whisper, whatever runs its graphs.

What is decoded of them, all or their speech or chunks of it, is found above the decoding: artifacts
and originals hear the same pieces.
"""

import math
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from exporter.formats import audio
from exporter.formats.audio.spans import Span
from exporter.runtime.transcript import Segment, Sound, Transcript
from exporter.runtime.vad.spans import Timeline, find_speech, merged
from exporter.runtime.whisper.engine import Engine
from exporter.runtime.whisper.features.log_mel import LogMel
from exporter.runtime.whisper.features.long_log_mel import LongLogMel
from exporter.runtime.whisper.language import FoundLanguage
from exporter.runtime.whisper.long_form import LongForm, Recording, Timed
from exporter.runtime.whisper.options import Options, lead_of
from exporter.runtime.whisper.settings import Settings
from exporter.runtime.whisper.streams.queue import WindowQueue, in_order
from exporter.runtime.whisper.text import Text
from exporter.runtime.words.timing import Aligner

Part = tuple[Segment, list[int]]
"""A segment, and its tokens."""


@dataclass(frozen=True)
class Piece:
    """What is decoded like one recording.

    Attributes:
        place: The place of its recording among those that are decoded.
        sound: What is heard.
        is_long: Whether it is longer than a window.
        timeline: Where its times are in the recording; None if it is all of it.
    """

    place: int
    sound: Sound
    is_long: bool
    timeline: Timeline | None = None

    def placed(self, segment: Segment, length_s: float) -> Segment:
        """Return a segment with its times in the recording.

        Windows are padded with silence, so times may lie beyond the piece's end, at `length_s`.
        """
        segment = segment.until(length_s)
        if self.timeline is None:
            return segment
        return segment.moved(self.timeline.start_s, self.timeline.end_s)


@dataclass(frozen=True)
class Whisper:
    """An open Whisper.

    Attributes:
        engine: Runs its graphs.
        settings: What its configs say.
        text: Its tokenizer.
    """

    engine: Engine
    settings: Settings
    text: Text

    def transcribe(self, sounds: Sequence[Sound], options: Options) -> list[Transcript]:
        """Transcribe recordings, float32 mono [samples] at the checkpoint's rate, in order.

        Their windows are decoded `options.batch_size` at a time.

        Raises:
            RecipeError: The checkpoint lacks what an option asks for.
            DataError: A long recording cannot be read to its end.
        """
        parts: list[list[Part]] = [[] for _ in sounds]
        found: dict[int, FoundLanguage] = {}
        for place, part in self._parts(sounds, options, found):
            parts[place].append(part)
        return [self._joined(each, options, found.get(place)) for place, each in enumerate(parts)]

    def segments(self, sound: Sound, options: Options) -> Generator[Segment, None, Transcript]:
        """Transcribe one recording, yield its segments as they come, and return the transcript.

        Raises:
            RecipeError: As `transcribe` does.
            DataError: As `transcribe` does.
        """
        parts: list[Part] = []
        found: dict[int, FoundLanguage] = {}
        for _, part in self._parts([sound], options, found):
            parts.append(part)
            yield part[0]
        return self._joined(parts, options, found.get(0))

    def _joined(
        self, parts: Sequence[Part], options: Options, found: FoundLanguage | None
    ) -> Transcript:
        transcript = joined(self.text, parts)
        if found is None:
            return replace(transcript, language=given_language(self.settings, options))
        codes = {token: code for code, token in self.settings.languages.items()}
        return replace(
            transcript, language=codes[found.token], language_probability=found.probability
        )

    def _parts(
        self, sounds: Sequence[Sound], options: Options, found: dict[int, FoundLanguage]
    ) -> Iterator[tuple[int, Part]]:
        """Yield the place of a recording, and its next segment in the order of time.

        Args:
            sounds: The recordings.
            options: The options.
            found: The languages that were found, by place; added to.
        """
        if self._form(options, is_long=False).windows.streams:
            yield from self._queued(sounds, options, found)
            return
        size = options.batch_size
        for pieces in batches(sounds, self.settings, options, long=size):
            later: list[list[Part]] = [[] for _ in pieces]
            for index, part in self._decoded(pieces, options, found):
                if index:
                    later[index].append(part)
                else:  # as it comes
                    yield pieces[0].place, part
            for piece, parts in zip(pieces, later, strict=True):
                yield from ((piece.place, part) for part in parts)

    def _queued(
        self, sounds: Sequence[Sound], options: Options, found: dict[int, FoundLanguage]
    ) -> Iterator[tuple[int, Part]]:
        """Decode with a queue of all windows: first of short pieces, then of the long ones."""
        long: list[Piece] = []

        def short() -> Iterator[Piece]:
            for place, sound in enumerate(sounds):
                for piece in _pieces(place, sound, self.settings, options):
                    if piece.is_long:
                        long.append(piece)
                    else:
                        yield piece

        yield from self._streamed(short(), options, found, is_long=False)
        yield from self._streamed(long, options, found, is_long=True)

    def _streamed(
        self,
        pieces: Iterable[Piece],
        options: Options,
        found: dict[int, FoundLanguage],
        *,
        is_long: bool,
    ) -> Iterator[tuple[int, Part]]:
        """Decode pieces of one kind with a queue, and yield their segments in order."""
        pieces = iter(pieces)
        if (first := next(pieces, None)) is None:
            return
        form = self._form(options, is_long=is_long)
        opened: list[tuple[Piece, float]] = []

        def recordings() -> Iterator[Recording]:
            for piece in chain([first], pieces):
                (recording,), (length,) = self._opened([piece], options)
                recording.language = self._language(options)
                opened.append((piece, length / self.settings.mel.rate))
                yield recording

        stream = form.windows.stream()
        try:
            queue = WindowQueue(form, stream, options.batch_size, found)
            for heard in in_order(queue.decode(recordings())):
                piece, length_s = opened[heard.index]
                for one in heard.timed:
                    segment = piece.placed(self._segment(one, options), length_s)
                    yield piece.place, (segment, one.tokens)
        finally:
            stream.release()

    def _form(self, options: Options, *, is_long: bool) -> LongForm:
        """Return what decodes long recordings, or those within a window."""
        settings, aligner = self.settings, None
        lead = lead_of(options, settings, self.text)
        times = is_long or options.timestamps
        if options.word_timestamps:
            aligner = Aligner(self.engine, settings, self.text, options.task)
        return LongForm(self.engine, settings, options, lead, timestamps=times, aligner=aligner)

    def _decoded(
        self, pieces: Sequence[Piece], options: Options, found: dict[int, FoundLanguage]
    ) -> Iterator[tuple[int, Part]]:
        """Yield a piece's place among those decoded together, and its next segment.

        Args:
            pieces: The pieces.
            options: The options.
            found: The languages that were found, by place; added to.
        """
        recordings, lengths = self._opened(pieces, options)
        for piece, recording in zip(pieces, recordings, strict=True):
            known = found.get(piece.place)
            recording.language = known.token if known else self._language(options)
        form = self._form(options, is_long=pieces[0].is_long)
        for index, timed in form.decode(recordings):
            piece, length_s = pieces[index], lengths[index] / self.settings.mel.rate
            if (heard := recordings[index].found) is not None:
                found.setdefault(piece.place, heard)
            for one in timed:
                yield index, (piece.placed(self._segment(one, options), length_s), one.tokens)

    def _opened(
        self, pieces: Sequence[Piece], options: Options
    ) -> tuple[list[Recording], list[int]]:
        """Return recordings with their features, and their samples."""
        mel = self.settings.mel
        features: list[Any]
        if pieces[0].is_long:
            features = [LongLogMel(mel, piece.sound) for piece in pieces]
            lengths = [each.samples for each in features]
        else:
            sounds = [audio.whole(piece.sound) for piece in pieces]
            features = [*mel(sounds)]
            lengths = [len(sound) for sound in sounds]
        clips = [None if options.chunked else _clips(options, each, mel) for each in lengths]
        recordings = [
            Recording(each, clip, piece.place, heard=length // mel.hop)
            for each, clip, piece, length in zip(features, clips, pieces, lengths, strict=True)
        ]
        return recordings, lengths

    def _language(self, options: Options) -> int | None:
        code = given_language(self.settings, options)
        return None if code is None else self.settings.languages.get(code)

    def _segment(self, timed: Timed, options: Options) -> Segment:
        window, sampled = timed.window, options.temperatures != (0.0,)
        return Segment(
            timed.start_s,
            timed.end_s,
            self.text.decode(timed.tokens),
            avg_logprob=window.avg_logprob,
            no_speech_prob=window.no_speech_prob,
            compression_ratio=window.compression_ratio,
            temperature=window.temperature if sampled else None,
            words=timed.words,
        )


def given_language(settings: Settings, options: Options) -> str | None:
    """Return the code of the language that options or configs name; None if it is to be found.

    A checkpoint without languages is English-only, as in openai-whisper.
    """
    return options.language or settings.language or (None if settings.languages else "en")


def batches(
    sounds: Sequence[Sound], settings: Settings, options: Options, *, long: int
) -> Iterator[list[Piece]]:
    """Yield the pieces of recordings that are decoded together, as they are read.

    Those within a window, `options.batch_size` at a time, and longer ones, `long` at a time, wait
    for others of their kind. Those of one recording come in order.
    """
    waiting: dict[bool, list[Piece]] = {False: [], True: []}
    sizes = {False: options.batch_size, True: long}
    for place, sound in enumerate(sounds):
        for piece in _pieces(place, sound, settings, options):
            together = waiting[piece.is_long]
            together.append(piece)
            if len(together) == sizes[piece.is_long]:
                yield together
                waiting[piece.is_long] = []
    yield from filter(None, waiting.values())


def _pieces(place: int, sound: Sound, settings: Settings, options: Options) -> Iterator[Piece]:
    rate, window = settings.mel.rate, settings.mel.samples
    if not (options.vad or options.chunked):
        yield Piece(place, sound, isinstance(sound, audio.LongAudio) or len(sound) > window)
        return
    spans = _spans(sound, settings, options)
    if options.chunked:
        chunks = merged(spans, window) if options.vad else [[span] for span in spans]
        for chunk, samples in zip(chunks, audio.excerpts(sound, chunks), strict=True):
            yield Piece(place, samples, is_long=False, timeline=Timeline(chunk, rate))
    elif spans:
        long = sum(stop - start for start, stop in spans) > window
        speech = audio.parts(sound, spans) if long else next(audio.excerpts(sound, [spans]))
        yield Piece(place, speech, long, Timeline(spans, rate))


def _spans(sound: Sound, settings: Settings, options: Options) -> list[Span]:
    """Return the spans of speech, or the clips, which are cut where they exceed a window."""
    rate, window = settings.mel.rate, settings.mel.samples
    if options.vad:
        return find_speech(sound, rate, options.speech_rules(window / rate))
    length = sum(map(len, audio.blocks(sound)))
    clips = [
        (round(start_s * rate), length if math.isinf(end_s) else min(round(end_s * rate), length))
        for start_s, end_s in options.clips or ()
    ]
    return [
        (start, min(start + window, stop))
        for begin, stop in clips
        for start in range(begin, stop, window)
    ]


def joined(text: Text, parts: Sequence[Part]) -> Transcript:
    """Return the transcript of a recording's segments and their tokens."""
    tokens = [token for _, some in parts for token in some]
    segments = tuple(segment for segment, _ in parts)
    spoken = segments[0].text if len(segments) == 1 else text.decode(tokens)
    return Transcript(spoken, tuple(text.spoken(tokens)), segments)


def _clips(options: Options, samples: int, mel: LogMel) -> list[tuple[int, int]] | None:
    """Return the clips of a recording in frames; None: all of it."""
    if options.clips is None:
        return None
    frames, rate = samples // mel.hop, mel.rate / mel.hop
    return [
        (round(start_s * rate), frames if math.isinf(end_s) else min(round(end_s * rate), frames))
        for start_s, end_s in options.clips
    ]
