"""The recogniser: an open artifact or original that transcribes audio."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import count
from typing import TYPE_CHECKING, Any, TypeAlias, cast, overload

from exporter.errors import DataError
from exporter.formats import audio as audio_files
from exporter.formats.audio import KINDS, LongAudio, Recording, is_recording, require_rate
from exporter.recognition.foreign import foreign_files
from exporter.recognition.model import FamilyModel, Model, Values
from exporter.runtime.decoding import changed, overlaid, unknown_option
from exporter.runtime.manifest import SealedManifest
from exporter.runtime.transcript import Segment, Sound, Transcript

if TYPE_CHECKING:
    from exporter.artifact.manifest import Manifest
    from exporter.families.base import Family
    from exporter.recipe import Decoding

_Named: TypeAlias = tuple[Iterator[str], Iterable[Recording]]


class Recogniser:
    """A model that is ready to transcribe; `exporter.load` opens one.

    An artifact that numpy and onnxruntime can run is opened by these alone; `model`, `processor`
    and `family` are then opened at their first use, with torch and transformers.
    """

    def __init__(
        self,
        opened: Model,
        decoding: Values,
        whole: Callable[[], FamilyModel],
        sealed: SealedManifest | None = None,
    ) -> None:
        """Take up an open model.

        Args:
            opened: The model that transcribes.
            decoding: Default options of `transcribe`: the recipe's.
            whole: Opens the same for transformers.
            sealed: The artifact's manifest; None for an original.
        """
        self.opened = opened
        self._values = decoding
        self._open_whole = whole
        self._sealed = sealed

    def __repr__(self) -> str:
        """Return what was opened and how it decodes, in one line."""
        what = "original"
        if self._sealed is not None:
            what = f"{self._sealed.recipe} {self._sealed.kind}"
        options = changed(self._values)
        how = "".join(f", {name}={value!r}" for name, value in options.items())
        return f"<Recogniser: {what}, {self.sampling_rate} Hz{how}>"

    @property
    def sampling_rate(self) -> int:
        """The model's sampling rate in Hz, to which all audio is resampled."""
        return self.opened.sampling_rate

    @property
    def window(self) -> int:
        """Samples of the model's window; longer recordings are decoded in several steps."""
        return self.opened.window

    @property
    def model(self) -> Any:
        """A transformers `WhisperForConditionalGeneration`, or model with a CTC head.

        Or one that acts as it, so that `pipeline("automatic-speech-recognition", model=...)`
        accepts it with the parts of `processor`.
        """
        return self._whole.model

    @property
    def processor(self) -> Any:
        """The feature extractor and the tokenizer."""
        return self._whole.processor

    @property
    def family(self) -> Family:
        """The module of the model's family."""
        return self._whole.family

    @cached_property
    def decoding(self) -> Decoding:
        """Default options of `transcribe`: the recipe's."""
        from exporter.recipe import Decoding

        return Decoding.model_construct(**self._values)

    @cached_property
    def manifest(self) -> Manifest | None:
        """The artifact's manifest; None for an original."""
        from exporter.artifact.store import whole

        return None if self._sealed is None else whole(self._sealed.content)

    @cached_property
    def _whole(self) -> FamilyModel:
        # It decodes from now on, so that the graphs are not open twice.
        self.opened = whole = self._open_whole()
        return whole

    @overload
    def transcribe(
        self, audio: Recording, *, sampling_rate: int | None = None, **options: Any
    ) -> Transcript: ...
    @overload
    def transcribe(
        self, audio: Iterable[Recording], *, sampling_rate: int | None = None, **options: Any
    ) -> list[Transcript]: ...
    def transcribe(
        self,
        audio: Recording | Iterable[Recording],
        *,
        sampling_rate: int | None = None,
        **options: Any,
    ) -> Transcript | list[Transcript]:
        """Transcribe one recording, or each of several.

        Recordings may be longer than the model's window.

        Example:
            >>> recogniser = exporter.load("artifacts/whisper-demo-int8/onnx-int8")
            >>> print(recogniser.transcribe("speech.flac", language="en", num_beams=5))
            >>> samples, rate = soundfile.read("speech.flac")
            >>> recogniser.transcribe(samples, sampling_rate=rate, timestamps=True).segments

        Args:
            audio: One recording, or an iterable of recordings. A recording is a path, the bytes of
                an encoded file (wav, flac, mp3, ogg ...), a binary file object, or samples in a
                numpy array or torch tensor: [samples], or with one or two channels
                [channels, samples] or [samples, channels]. The axis of length 1 or 2 holds the
                channels, which are averaged. Floating-point samples are in [-1, 1]; int8, uint8,
                int16 and int32 are scaled by their full range.
            sampling_rate: Samples a second of arrays and tensors, which need it: from 1,000 to
                768,000 Hz. Encoded audio carries its own. All is resampled to the model's rate.
            **options: Options that replace the recipe's `decoding`; docs/recipes.md has all.
                What is decoded: `language` (a code like "en"; None: the checkpoint's own, else the
                model finds it), `multilingual`, `language_detection_segments`,
                `language_detection_threshold`, `task` ("transcribe" or "translate").
                The search: `num_beams` (1 is greedy), `patience`, `best_of`, `length_penalty`,
                `repetition_penalty`, `no_repeat_ngram_size`, `max_new_tokens` (of a window; None:
                all that fit).
                Windows that fail: `temperatures`, `compression_ratio_threshold`,
                `logprob_threshold`, `no_speech_threshold`.
                Text before windows: `condition_on_previous`, `initial_prompt`, `hotwords`,
                `prefix`.
                What is heard: `vad` with `vad_threshold`, `vad_min_speech_s`, `vad_min_silence_s`
                and `vad_speech_pad_s`, `long_form` ("sequential" or "chunked"), `clip_timestamps`,
                `hallucination_silence_threshold`, `batch_size` (windows decoded together, of
                several recordings or chunks).
                Times: `timestamps` (of segments), `word_timestamps`.
                CTC models take `chunk_length_s` and `stride_length_s` (of long recordings),
                `timestamps`, `word_timestamps`, `batch_size`, and `vad` with its options.

        Returns:
            A `Transcript` for one recording; for an iterable, a list of them in its order.

        Raises:
            DataError: A recording cannot be used; the message names it.
            RecipeError: An option has a value that is invalid, or that the model lacks.
            TypeError: There is no such option.
        """
        results = self.transcribe_iter(audio, sampling_rate=sampling_rate, **options)
        return next(results) if is_recording(audio) else list(results)

    def transcribe_iter(
        self,
        audio: Recording | Iterable[Recording],
        *,
        sampling_rate: int | None = None,
        **options: Any,
    ) -> Iterator[Transcript]:
        """Transcribe recordings as they arrive, and yield each transcript as soon as it is done.

        Reads `batch_size` recordings, yields their transcripts, releases them, and only then reads
        more, so `audio` may be an endless generator. A file longer than two minutes is read in
        blocks, so that memory does not follow its length, and a longer array is decoded alone.
        If a recording cannot be used, the transcripts of those before it are yielded before the
        error is raised.

        Args:
            audio: As in `transcribe`.
            sampling_rate: As in `transcribe`.
            **options: As in `transcribe`.

        Yields:
            The transcripts, in the order of the recordings.

        Raises:
            DataError: As in `transcribe`.
            RecipeError: As in `transcribe`, before anything is read.
            TypeError: As in `transcribe`, before anything is read.
        """
        decoding = self._overlaid(options)
        rate = None if sampling_rate is None else require_rate(sampling_rate)
        return self._results(_named(audio), rate, decoding)

    def segments(
        self, audio: Recording, *, sampling_rate: int | None = None, **options: Any
    ) -> Generator[Segment, None, Transcript]:
        """Transcribe one recording, and yield its segments as soon as they are known.

        Those of a long recording come as it is decoded, before its end is read.

        Example:
            >>> for segment in recogniser.segments("lecture.flac", timestamps=True):
            ...     print(segment.start_s, segment.text)

        Args:
            audio: As in `transcribe`.
            sampling_rate: As in `transcribe`.
            **options: As in `transcribe`.

        Yields:
            The segments, in the order of time.

        Returns:
            The transcript, as the generator's value.

        Raises:
            DataError: As in `transcribe`.
            RecipeError: As in `transcribe`, before anything is read.
            TypeError: As in `transcribe`, before anything is read.
        """
        decoding = self._overlaid(options)
        rate = None if sampling_rate is None else require_rate(sampling_rate)
        sound = audio_files.load(audio, self.sampling_rate, rate, "audio")
        return self._segments(sound, decoding)

    def _segments(self, sound: Sound, decoding: Values) -> Generator[Segment, None, Transcript]:
        with foreign_files(self._sealed):
            return (yield from self.opened.segments(sound, decoding))

    def decode(self, audio: Sequence[Sound], decoding: Decoding | None = None) -> list[Transcript]:
        """Transcribe arrays that are float32 mono [samples] at `sampling_rate` already.

        Used for measurements, since it converts and checks nothing; long files, as
        `exporter.formats.audio.read` returns them, are read here. `decoding` sets every option;
        None means the recipe's.
        """
        return self._decoded(audio, self._values if decoding is None else vars(decoding))

    def _decoded(self, audio: Sequence[Sound], decoding: Values) -> list[Transcript]:
        with foreign_files(self._sealed):
            return self.opened.transcribe(audio, decoding)

    def _results(self, named: _Named, rate: int | None, decoding: Values) -> Iterator[Transcript]:
        for batch in self._batches(named, rate, decoding["batch_size"]):
            try:
                transcripts = self._decoded(batch, decoding)
            except DataError:  # a long file is decoded no further than needed before
                if len(batch) == 1:
                    raise
                for sound in batch:
                    yield from self._decoded([sound], decoding)
            else:
                batch.clear()  # release the recordings before more are read
                yield from transcripts

    def _batches(self, named: _Named, rate: int | None, size: int) -> Iterator[list[Sound]]:
        """Yield batches of recordings; those before a faulty one come before its error.

        Long files are in no memory; a long array is a batch of its own.
        """
        batch: list[Sound] = []
        names, recordings = named
        most = audio_files.WHOLE_S * self.sampling_rate
        try:
            for recording in recordings:  # `zip` would keep a reference while the next is read
                sound = audio_files.load(recording, self.sampling_rate, rate, next(names))
                del recording
                alone = not isinstance(sound, LongAudio) and len(sound) > most
                if alone and batch:
                    yield batch
                    batch = []
                batch.append(sound)
                del sound
                if alone or len(batch) == size:
                    yield batch
                    batch = []
        except Exception:
            if batch:
                yield batch
            raise
        if batch:
            yield batch

    def _overlaid(self, options: Mapping[str, Any]) -> Values:
        """Merge options with the recipe's, and check that the model supports them."""
        if message := unknown_option(options):
            msg = f"transcribe() got {message}"
            raise TypeError(msg)
        decoding = overlaid(self._values, options)
        if decoding != self._values:
            self.opened.check(decoding)
        return decoding


def _named(audio: Recording | Iterable[Recording]) -> _Named:
    """Return the recordings, and a name of each for error messages."""
    if is_recording(audio):
        return iter(["audio"]), [audio]
    if isinstance(audio, Iterable) and not isinstance(audio, Mapping):
        return (f"audio[{index}]" for index in count()), cast("Iterable[Recording]", audio)
    msg = f"audio is of type {type(audio).__name__}: give {KINDS}, or an iterable of these"
    raise DataError(msg)
