"""What is decoded of recordings: all of them, their speech, or chunks of it.

Artifacts and originals get the same pieces, so both hear the same.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from exporter.formats.audio import LongAudio, blocks, excerpts, parts
from exporter.formats.audio.parts import Span
from exporter.runtime.transcript import Segment, Sound
from exporter.runtime.vad.spans import Timeline, find_speech, merged
from exporter.runtime.whisper.options import Options
from exporter.runtime.whisper.settings import Settings


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
        start_s = self.timeline.start_s(segment.start_s)
        end_s = max(start_s, self.timeline.end_s(segment.end_s))
        return replace(segment, start_s=start_s, end_s=end_s)


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
        yield Piece(place, sound, isinstance(sound, LongAudio) or len(sound) > window)
        return
    spans = _spans(sound, settings, options)
    if options.chunked:
        chunks = merged(spans, window) if options.vad else [[span] for span in spans]
        for chunk, samples in zip(chunks, excerpts(sound, chunks), strict=True):
            yield Piece(place, samples, is_long=False, timeline=Timeline(chunk, rate))
    elif spans:
        long = sum(stop - start for start, stop in spans) > window
        speech = parts(sound, spans) if long else next(excerpts(sound, [spans]))
        yield Piece(place, speech, long, Timeline(spans, rate))


def _spans(sound: Sound, settings: Settings, options: Options) -> list[Span]:
    """Return the spans of speech, or the clips, which are cut where they exceed a window."""
    rate, window = settings.mel.rate, settings.mel.samples
    if options.vad:
        return find_speech(sound, rate, options.speech_rules(window / rate))
    length = sum(map(len, blocks(sound)))
    clips = [
        (round(start_s * rate), length if math.isinf(end_s) else min(round(end_s * rate), length))
        for start_s, end_s in options.clips or ()
    ]
    return [
        (start, min(start + window, stop))
        for begin, stop in clips
        for start in range(begin, stop, window)
    ]
