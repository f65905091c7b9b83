"""Transcribe recordings with a Whisper, whatever runs its graphs."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from exporter.formats.audio import LongAudio
from exporter.runtime.transcript import Segment, Sound, Transcript
from exporter.runtime.whisper.engine import Engine
from exporter.runtime.whisper.long_form import LongForm, Recording, Timed
from exporter.runtime.whisper.long_log_mel import LongLogMel
from exporter.runtime.whisper.options import Options, lead_of
from exporter.runtime.whisper.settings import Settings
from exporter.runtime.whisper.text import Text
from exporter.runtime.words.timing import Aligner

Part = tuple[Segment, list[int]]
"""A segment, and its tokens."""


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

    @classmethod
    def read(cls, folder: Path, engine: Engine) -> "Whisper":
        """Read an artifact's configs and tokenizer.

        Raises:
            IntegrityError: A file is missing or not readable.
        """
        return cls(engine, Settings.read(folder), Text.read(folder))

    def transcribe(self, sounds: Sequence[Sound], options: Options) -> list[Transcript]:
        """Transcribe recordings, float32 mono [samples] at the checkpoint's rate, in order.

        Those within a window are decoded `options.batch_size` at a time, longer ones one by one.

        Raises:
            RecipeError: The checkpoint lacks what an option asks for.
            DataError: A long recording cannot be read to its end.
        """
        transcripts: dict[int, Transcript] = {}
        for group in groups(sounds, self.settings, options):
            decoded = self._transcripts([sounds[place] for place in group], options)
            transcripts.update(zip(group, decoded, strict=True))
        return [transcripts[place] for place in range(len(sounds))]

    def segments(self, sound: Sound, options: Options) -> Generator[Segment, None, Transcript]:
        """Transcribe one recording, yield its segments as they come, and return the transcript.

        Raises:
            RecipeError: As `transcribe` does.
            DataError: As `transcribe` does.
        """
        parts: list[Part] = []
        length_s = 0.0
        for _, length_s, timed in self._decoded([sound], options):
            for one in timed:
                parts.append((self._segment(one, options), one.tokens))
                yield parts[-1][0].until(length_s)
        return joined(self.text, parts, length_s)

    def _transcripts(self, sounds: Sequence[Sound], options: Options) -> list[Transcript]:
        parts: list[list[Part]] = [[] for _ in sounds]
        lengths = [0.0] * len(sounds)
        for place, length_s, timed in self._decoded(sounds, options):
            parts[place] += [(self._segment(one, options), one.tokens) for one in timed]
            lengths[place] = length_s
        return [joined(self.text, *pair) for pair in zip(parts, lengths, strict=True)]

    def _decoded(
        self, sounds: Sequence[Sound], options: Options
    ) -> Iterator[tuple[int, float, list[Timed]]]:
        """Yield a recording's place, its seconds, and its next segments."""
        settings = self.settings
        long = is_long(sounds[0], settings)
        times = long or options.timestamps
        lead = lead_of(options, settings, self.text)
        recordings, lengths = self._opened(sounds, long=long)
        for recording in recordings:
            recording.language = self._language(options)
        rate = settings.mel.rate
        aligner = None
        if options.word_timestamps:
            aligner = Aligner(self.engine, settings, self.text, options.task)
        form = LongForm(self.engine, settings, options, lead, timestamps=times, aligner=aligner)
        for place, timed in form.decode(recordings):
            yield place, lengths[place] / rate, timed

    def _opened(self, sounds: Sequence[Sound], *, long: bool) -> tuple[list[Recording], list[int]]:
        """Return recordings with their features, and their samples."""
        if long:
            features = LongLogMel(self.settings.mel, sounds[0])
            return [Recording(features)], [features.samples]
        short = [sound for sound in sounds if not isinstance(sound, LongAudio)]
        rows = self.settings.mel(short)
        lengths, hop = [len(sound) for sound in short], self.settings.mel.hop
        pairs = zip(rows, lengths, strict=True)
        return [Recording(row, heard=length // hop) for row, length in pairs], lengths

    def _language(self, options: Options) -> int | None:
        code = options.language or self.settings.language
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


def groups(sounds: Sequence[Sound], settings: Settings, options: Options) -> list[list[int]]:
    """Return the places of recordings that are decoded together: short ones, or a long one."""
    long = [place for place, sound in enumerate(sounds) if is_long(sound, settings)]
    short = [place for place in range(len(sounds)) if place not in long]
    size = options.batch_size if options.together else 1
    together = [short[start : start + size] for start in range(0, len(short), size)]
    return together + [[place] for place in long]


def is_long(sound: Sound, settings: Settings) -> bool:
    """Return whether a recording is longer than a window."""
    return isinstance(sound, LongAudio) or len(sound) > settings.mel.samples


def joined(text: Text, parts: Sequence[Part], length_s: float) -> Transcript:
    """Return the transcript of a recording's segments and their tokens.

    Windows are padded with silence, so times may lie beyond the end, at `length_s`.
    """
    tokens = [token for _, some in parts for token in some]
    segments = tuple(segment.until(length_s) for segment, _ in parts)
    whole = segments[0].text if len(segments) == 1 else text.decode(tokens)
    return Transcript(whole, tuple(text.spoken(tokens)), segments)
