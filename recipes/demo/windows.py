"""Training windows: utterances on a time line with noise, log-mel features and Whisper's labels."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from scipy.signal import fftconvolve
from torch import Tensor
from transformers import WhisperFeatureExtractor, WhisperTokenizer

from speech import RATE, Samples

Signal = npt.NDArray[np.float32]

WINDOW_SECONDS = 10
TIME_STEP = 0.02  # seconds between two timestamp tokens, fixed by Whisper
MAX_START = 1.0  # latest first timestamp that generation allows (max_initial_timestamp_index)
IGNORED = -100  # label that the loss leaves out
LETTERS = " abcdefghijklmnopqrstuvwxyz"  # classes 1 to 27 of the auxiliary CTC head; 0 is the blank


@dataclass(frozen=True)
class Prompt:
    """Token ids of everything around the text."""

    end: int
    start: int
    language: int
    task: int
    previous: int
    silence: int
    no_timestamps: int

    @classmethod
    def of(cls, tokenizer: WhisperTokenizer) -> Prompt:
        """Look the ids up."""
        ids: dict[str, int] = tokenizer.get_vocab()  # type: ignore[no-untyped-call]
        return cls(
            end=ids["<|endoftext|>"],
            start=ids["<|startoftranscript|>"],
            language=ids["<|en|>"],
            task=ids["<|transcribe|>"],
            previous=ids["<|startofprev|>"],
            silence=ids["<|nospeech|>"],
            no_timestamps=ids["<|notimestamps|>"],
        )

    def timestamp(self, seconds: float) -> int:
        """Return the token of a moment in the window; timestamps follow `<|notimestamps|>`."""
        return self.no_timestamps + 1 + round(seconds / TIME_STEP)


@dataclass
class Window:
    """A stretch of audio with its transcript: Whisper's inputs and labels, and letters."""

    audio: Signal
    tokens: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    letters: list[int] = field(default_factory=list)  # empty where the last utterance is cut off


@dataclass(frozen=True)
class Batch:
    """Windows padded to a common length."""

    features: Tensor
    tokens: Tensor
    labels: Tensor
    letters: Tensor
    letter_counts: Tensor


def feature_extractor() -> WhisperFeatureExtractor:
    """Return Whisper's feature extractor for the demo's window."""
    return WhisperFeatureExtractor(chunk_length=WINDOW_SECONDS)  # type: ignore[no-untyped-call]


class LogMel:
    """`WhisperFeatureExtractor`'s features for a whole batch at once, of any length."""

    def __init__(self) -> None:
        extractor = feature_extractor()
        self.filters = torch.from_numpy(extractor.mel_filters).float().T
        self.window = torch.hann_window(extractor.n_fft)
        self.hop: int = extractor.hop_length

    def __call__(self, audio: Tensor) -> Tensor:
        """Return (batch, mel bins, frames); the samples must be a multiple of the hop."""
        spectrum = torch.stft(
            audio, len(self.window), self.hop, window=self.window, return_complex=True
        )
        mel = (self.filters @ spectrum[..., :-1].abs().square()).clamp(min=1e-10).log10()
        return (mel.maximum(mel.amax((1, 2), keepdim=True) - 8.0) + 4.0) / 4.0


def coloured_noise(count: int, exponent: float, rng: np.random.Generator) -> Signal:
    """Return noise of power 1 whose spectrum falls with frequency to the given exponent."""
    spectrum = np.fft.rfft(rng.standard_normal(count))
    spectrum /= np.maximum(np.arange(len(spectrum)), 50.0 * count / RATE) ** (exponent / 2)
    noise = np.fft.irfft(spectrum, count)
    normed: Signal = (noise / np.sqrt(np.mean(noise**2))).astype(np.float32)
    return normed


def add_noise(audio: Signal, decibels: float, noise: Signal) -> Signal:
    """Add noise the given number of decibels below the speech, or very soft noise to silence."""
    speech = audio[np.abs(audio) > 0.05 * np.abs(audio).max()]
    level = np.sqrt(np.mean(speech**2)) if speech.size else 0.02
    noisy: Signal = audio + noise[: len(audio)] * np.float32(level * 10 ** (-decibels / 20))
    return noisy


def add_reverb(audio: Signal, seconds: float, wet: float, rng: np.random.Generator) -> Signal:
    """Let the sound die away over `seconds` (60 dB) like in a room, at the same length."""
    time = np.arange(round(seconds * RATE)) / RATE
    tail = rng.standard_normal(len(time)) * 10 ** (-3 * time / seconds)
    response = wet * tail / np.sqrt(np.sum(tail**2))
    response[0] = 1.0
    echoing: Signal = fftconvolve(audio, response)[: len(audio)].astype(np.float32)
    return echoing


class Mixer:
    """Lays recordings out on a time line with noise; `rng` and `noise_rng` decide everything."""

    def __init__(self, recordings: list[Samples], texts: list[str], noises: list[Signal]) -> None:
        self.recordings, self.noises = recordings, noises
        # Like Whisper, every segment's text starts with a space.
        self.texts = [" " + text for text in texts]
        self.seed(0)

    def seed(self, *seeds: int) -> None:
        """Start over from the given numbers."""
        self.rng = random.Random(repr(seeds))
        self.noise_rng = np.random.default_rng(seeds)

    def disturb(self, window: Window) -> None:
        """Add noise and, now and then, an echo, in place."""
        if window.letters and self.rng.random() < 0.3:
            seconds, wet = self.rng.uniform(0.1, 0.4), self.rng.uniform(0.1, 0.5)
            window.audio = add_reverb(window.audio, seconds, wet, self.noise_rng)
        noise = self.rng.choice(self.noises)
        offset = self.rng.randrange(len(noise) - len(window.audio))
        window.audio = add_noise(window.audio, self.rng.uniform(10.0, 35.0), noise[offset:])

    def alone(self) -> tuple[list[tuple[int, float]], float]:
        """Draw one utterance and the silence around it: see `mix`."""
        index = self.rng.randrange(len(self.recordings))
        lead, tail = (max(0.0, self.rng.uniform(-0.2, 0.4)) for _ in range(2))
        return [(index, lead)], lead + len(self.recordings[index]) / RATE + tail

    def mix(self, placed: list[tuple[int, float]], length: float) -> Window:
        """Lay recordings out from their starts in seconds, with the letters but without tokens."""
        audio = np.zeros(round(length * RATE), np.float32)
        gain = 10 ** self.rng.uniform(-0.9, 0.2)
        for index, start in placed:
            begin = round(start * RATE)
            piece = self.recordings[index][: len(audio) - begin]
            loudness = np.float32(gain * 10 ** self.rng.uniform(-0.1, 0.1) / 32768)
            audio[begin : begin + len(piece)] = piece * loudness
        window = Window(audio)
        if placed and self.end(placed[-1]) <= length + TIME_STEP:
            spoken = "".join(self.texts[index] for index, _ in placed)
            window.letters = [LETTERS.index(letter) + 1 for letter in spoken]
        return window

    def end(self, placed: tuple[int, float]) -> float:
        """Return the second at which a placed recording ends."""
        return placed[1] + len(self.recordings[placed[0]]) / RATE


class WindowFactory(Mixer):
    """Draws training windows for Whisper."""

    def __init__(
        self,
        recordings: list[Samples],
        texts: list[str],
        tokenizer: WhisperTokenizer,
        noises: list[Signal],
    ) -> None:
        super().__init__(recordings, texts, noises)
        self.prompt = Prompt.of(tokenizer)
        self.tokens: list[list[int]] = tokenizer(self.texts, add_special_tokens=False).input_ids

    def single(self) -> Window:
        """Draw one utterance with a little silence around it."""
        placed, length = self.alone()
        return self._window(placed, length, timestamps=self.rng.random() < 0.4)

    def packed(self) -> Window:
        """Fill a window with utterances and pauses; mostly its end cuts the last one off."""
        timestamps, clock = self.rng.random() < 0.8, self.rng.uniform(0.0, 0.9)
        limit = WINDOW_SECONDS if self.rng.random() < 0.7 else self.rng.uniform(5.0, WINDOW_SECONDS)
        placed = list[tuple[int, float]]()
        while clock < limit - 0.1:
            index = self.rng.randrange(len(self.recordings))
            end = clock + len(self.recordings[index]) / RATE
            # Without timestamps the model could not say that a sentence is unfinished.
            if end > limit and not (timestamps and limit == WINDOW_SECONDS):
                break
            placed.append((index, clock))
            clock = end + self.rng.uniform(0.25, 1.3)
        return self._window(placed, limit, timestamps)

    def silence(self) -> Window:
        """Draw a window without speech."""
        return self._window([], self.rng.uniform(0.2, WINDOW_SECONDS), timestamps=True)

    def _window(self, placed: list[tuple[int, float]], length: float, timestamps: bool) -> Window:
        """Lay the recordings out from their starts in seconds, and write the transcript."""
        window = self.mix(placed, length)
        window.tokens, window.labels = self._transcript(placed, length, timestamps)
        return window

    def _transcript(
        self, placed: list[tuple[int, float]], length: float, timestamps: bool
    ) -> tuple[list[int], list[int]]:
        """Return decoder inputs and labels: `<|start|> text<|end|>` for every segment.

        Of a segment that the window cuts off only the start is written, as in the Whisper paper
        (2.3), so that long-form generation resumes there.
        """
        prompt = self.prompt
        body = list[int]() if timestamps else [prompt.no_timestamps]
        if timestamps and not placed:
            body.append(prompt.timestamp(0.0))
        for position, (index, start) in enumerate(placed):
            end = self.end((index, start))
            if timestamps:
                body.append(prompt.timestamp(start if position else min(start, MAX_START)))
            if end > length + TIME_STEP:
                break
            body += self.tokens[index]
            if timestamps:
                body.append(prompt.timestamp(min(end, WINDOW_SECONDS)))
        tokens = [prompt.start, prompt.language, prompt.task, *body]
        labels = [*tokens[1:], prompt.end]
        # The caller, not the audio, decides on task and timestamps.
        labels[1] = IGNORED
        if not timestamps:
            labels[2] = IGNORED
        if not placed:
            labels[0] = prompt.silence
        if self.rng.random() < 0.1:
            before = self._previous(timestamps)
            return before + tokens, [IGNORED] * len(before) + labels
        return tokens, labels

    def _previous(self, timestamps: bool) -> list[int]:
        """Draw an earlier transcript, as generation conditioned on previous text passes it."""
        index = self.rng.randrange(len(self.tokens))
        text, end = self.tokens[index], len(self.recordings[index]) / RATE
        if timestamps:
            text = [self.prompt.timestamp(0.0), *text, self.prompt.timestamp(end)]
        return [self.prompt.previous, *text]


def collate(windows: list[Window], seconds: float | None, log_mel: LogMel, padding: int) -> Batch:
    """Pad to `seconds`, or to the longest window, and compute the features."""
    step = 2 * log_mel.hop  # the encoder's second convolution halves the frames
    longest = max(len(window.audio) for window in windows)
    samples = round(seconds * RATE) if seconds else -(-longest // step) * step
    audio = torch.zeros(len(windows), samples)
    for row, window in zip(audio, windows, strict=True):
        row[: len(window.audio)] = torch.from_numpy(window.audio)

    def pad(rows: list[list[int]], value: int) -> Tensor:
        width = max(map(len, rows))
        return torch.tensor([row + [value] * (width - len(row)) for row in rows])

    letters = [window.letters for window in windows]
    return Batch(
        features=log_mel(audio),
        tokens=pad([window.tokens for window in windows], padding),
        labels=pad([window.labels for window in windows], IGNORED),
        letters=pad(letters, 0),
        letter_counts=torch.tensor([len(row) for row in letters]),
    )
