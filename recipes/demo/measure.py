"""Write the test clips, and measure a checkpoint's word error rate with transformers alone."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import soundfile
import torch
from torch.ao.quantization import quantize_dynamic
from transformers import (
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
    pipeline,
)

import speech
from speech import RATE
from windows import WINDOW_SECONDS, Signal, add_noise, add_reverb, coloured_noise

LEVEL = 0.2  # of the utterance's stored peak: quieter clips compress better


def room(audio: Signal, rng: random.Random, noise_rng: np.random.Generator) -> Signal:
    """Put a recording into a quiet room: some echo in a third of them, noise in two thirds."""
    if rng.random() < 1 / 3:
        audio = add_reverb(audio, rng.uniform(0.1, 0.3), rng.uniform(0.1, 0.4), noise_rng)
    if rng.random() < 2 / 3:
        noise = coloured_noise(len(audio), rng.uniform(0.5, 2.0), noise_rng)
        audio = add_noise(audio, rng.uniform(14.0, 28.0), noise)
    return audio


def join(recordings: list[speech.Samples], pauses: list[float]) -> Signal:
    """Join recordings, with a pause (in seconds) before each of them and one at the end."""
    silences = [np.zeros(round(pause * RATE)) for pause in pauses]
    pieces = [silences[0]]
    for recording, silence in zip(recordings, silences[1:], strict=True):
        pieces += [recording / 32768, silence]
    return (LEVEL * np.concatenate(pieces)).astype(np.float32)


def write_clips(work: Path, folder: Path, seed: int) -> None:
    """Write short clips of one sentence, long ones of several, and their manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, noise_rng = random.Random(seed), np.random.default_rng(seed)
    lines = list[str]()
    kinds = (("clips", 1, (0.1, 0.3)), ("long", speech.LONG_SENTENCES, (0.35, 0.9)))
    for split, size, pause in kinds:
        recordings, texts = speech.load(work, split)
        for number, start in enumerate(range(0, len(texts), size), 1):
            pauses = [rng.uniform(*pause) for _ in range(size + 1)]
            audio = room(join(recordings[start : start + size], pauses), rng, noise_rng)
            name = f"{'short' if size == 1 else 'long'}-{number:03}.flac"
            soundfile.write(folder / name, audio, RATE, subtype="PCM_16")
            text, seconds = " ".join(texts[start : start + size]), round(len(audio) / RATE, 2)
            entry = {"audio": name, "text": text, "language": "en", "duration": seconds}
            lines.append(json.dumps(entry))
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


class WhisperRecognizer:
    """A checkpoint folder, run in float32 by transformers."""

    def __init__(self, folder: Path) -> None:
        self.extractor = WhisperFeatureExtractor.from_pretrained(folder)
        self.tokenizer = WhisperTokenizer.from_pretrained(folder)
        self.model = WhisperForConditionalGeneration.from_pretrained(
            folder, dtype=torch.float32
        ).eval()

    def short(self, clips: list[Signal], **options: Any) -> list[str]:
        """Transcribe clips that fit into one window."""
        texts = list[str]()
        clips_left = iter(clips)
        while group := list(islice(clips_left, 8)):
            features = self.extractor(group, sampling_rate=RATE, return_tensors="pt").input_features
            texts += self._generate(input_features=features, **options)
        return texts

    def long(self, clip: Signal, **options: Any) -> str:
        """Transcribe a recording window by window."""
        inputs = self.extractor(
            clip,
            sampling_rate=RATE,
            return_tensors="pt",
            truncation=False,
            return_attention_mask=True,
        )
        return self._generate(**inputs, return_timestamps=True, **options)[0]

    def _generate(self, **options: Any) -> list[str]:
        tokens = self.model.generate(language="en", task="transcribe", **options)
        return [
            text.strip() for text in self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        ]


class CtcRecognizer:
    """A wav2vec2 folder, run in float32 by transformers, greedily."""

    def __init__(self, folder: Path, int8: bool = False) -> None:
        self.extractor = Wav2Vec2FeatureExtractor.from_pretrained(folder)
        self.tokenizer = Wav2Vec2CTCTokenizer.from_pretrained(folder)
        model = Wav2Vec2ForCTC.from_pretrained(folder, dtype=torch.float32).eval()
        self.model = quantize_dynamic(model, {torch.nn.Linear}) if int8 else model

    def short(self, clips: list[Signal]) -> list[str]:
        """Transcribe each clip as a whole."""
        return [self._whole(clip) for clip in clips]

    def long(self, clip: Signal) -> str:
        """Transcribe a recording in pieces that overlap, as transformers' pipeline does."""
        recognise = pipeline(
            "automatic-speech-recognition",
            model=self.model,
            tokenizer=self.tokenizer,
            feature_extractor=self.extractor,
            chunk_length_s=WINDOW_SECONDS,
        )
        text: str = recognise(clip.copy())["text"]
        return text

    def _whole(self, clip: Signal) -> str:
        inputs = self.extractor(clip, sampling_rate=RATE, return_tensors="pt")
        with torch.inference_mode():
            logits = self.model(**inputs).logits[0]
        return self.tokenizer.decode(logits.argmax(-1))


def read_clips(folder: Path, long: bool) -> Iterator[tuple[Signal, str]]:
    """Read the clips that are longer than a window, or the others."""
    for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if (entry["duration"] > WINDOW_SECONDS) == long:
            yield soundfile.read(folder / entry["audio"], dtype="float32")[0], entry["text"]


def error_rate(references: list[str], hypotheses: list[str]) -> float:
    """Return the word error rate in percent."""
    return round(100 * jiwer.wer(references, hypotheses), 2)


def prepare(work: Path, output: Path, seed: int, workers: int) -> None:
    """Synthesize all speech and write the test clips, as far as they are not there yet."""
    work.mkdir(parents=True, exist_ok=True)
    for split, utterances in speech.plan(seed).items():
        speech.synthesize(work, split, utterances, workers)
    write_clips(work, output / "clips", seed)


def short_clips(
    recognizer: WhisperRecognizer | CtcRecognizer,
    output: Path,
    limit: int | None = None,
    **options: Any,
) -> float:
    """Measure on the short clips with voices not used in training."""
    clips, texts = zip(*islice(read_clips(output / "clips", long=False), limit), strict=True)
    return error_rate(list(texts), recognizer.short(list(clips), **options))


def long_clips(recognizer: WhisperRecognizer | CtcRecognizer, output: Path) -> float:
    """Measure on the recordings longer than a window."""
    clips, texts = zip(*read_clips(output / "clips", long=True), strict=True)
    return error_rate(list(texts), [recognizer.long(clip) for clip in clips])


def seen_voices(recognizer: WhisperRecognizer | CtcRecognizer, work: Path) -> float:
    """Measure on new sentences by training voices, without noise."""
    recordings, texts = speech.load(work, "seen")
    clips = [(LEVEL * recording / 32768).astype(np.float32) for recording in recordings]
    return error_rate(texts, recognizer.short(clips))


def whisper_short(output: Path, limit: int) -> float:
    """Measure the latest Whisper on some of the short clips."""
    return short_clips(WhisperRecognizer(output / "whisper"), output, limit)


def whisper_figures(output: Path, work: Path) -> dict[str, float]:
    """Measure all of Whisper's figures of the report, in percent."""
    recognizer = WhisperRecognizer(output / "whisper")
    return {
        "short": short_clips(recognizer, output),
        "short_timestamps": short_clips(recognizer, output, return_timestamps=True),
        "short_beam_5": short_clips(recognizer, output, num_beams=5),
        "long": long_clips(recognizer, output),
        "seen_voices": seen_voices(recognizer, work),
    }


def ctc_short(output: Path) -> float:
    """Measure the latest wav2vec2 on the short clips."""
    return short_clips(CtcRecognizer(output / "ctc"), output)


def ctc_figures(output: Path, work: Path) -> dict[str, float]:
    """Measure all of wav2vec2's figures of the report, in percent."""
    recognizer = CtcRecognizer(output / "ctc")
    clips, texts = zip(*read_clips(output / "clips", long=True), strict=True)
    return {
        "short": short_clips(recognizer, output),
        "short_int8": short_clips(CtcRecognizer(output / "ctc", int8=True), output),
        "long": long_clips(recognizer, output),
        "long_whole": error_rate(list(texts), recognizer.short(list(clips))),
        "seen_voices": seen_voices(recognizer, work),
    }
