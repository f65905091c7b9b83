"""Synthetic English voice commands: sentences of a small grammar, spoken by espeak-ng and flite.

`speech.toml` holds the grammar and the voices. Voices and sentences of the test clips never occur
in training. Both synthesizers are command-line programs, so nothing is downloaded and every
utterance follows from the seed.
"""

from __future__ import annotations

import json
import logging
import random
import re
import subprocess
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.signal import resample_poly

Samples = npt.NDArray[np.int16]

RATE = 16_000
PEAK = 0.5  # every stored utterance is scaled to this peak, of 1.0
TRAIN, SEEN, CLIPS = 22_000, 150, 100  # utterances
LONG, LONG_SENTENCES = 4, 7  # long recordings, and the sentences of each
WORD_STRINGS = (
    0.12  # share of training sentences that are random words, against learning only the grammar
)

log = logging.getLogger(__name__)

_spoken = tomllib.loads(Path(__file__).with_name("speech.toml").read_text(encoding="utf-8"))
TEMPLATES: list[str] = _spoken["templates"]
SLOTS: dict[str, list[str]] = _spoken["slots"]
ESPEAK: dict[str, list[str]] = _spoken["espeak-ng"]
FLITE: dict[str, list[str]] = _spoken["flite"]
FLITE_PITCH = {"slt": 170, "kal16": 100, "awb": 130, "rms": 100}  # hertz, near each voice's own


@dataclass(frozen=True)
class Voice:
    """One speaker: an engine ("espeak-ng" or "flite") and the name by which the engine knows it."""

    engine: str
    name: str


@dataclass(frozen=True)
class Utterance:
    """Everything that decides one recording."""

    text: str
    voice: Voice
    pace: float  # 1.0 is the engine's normal speed
    pitch: float  # 1.0 is the voice's normal pitch
    tract: float  # played this much faster, which shifts the formants like a shorter vocal tract


def expand(template: str, rng: random.Random) -> str:
    """Fill every {slot}, also those inside of a slot's own text."""
    while "{" in template:
        template = re.sub(r"\{(\w+)\}", lambda match: rng.choice(SLOTS[match[1]]), template)
    return template


def vocabulary() -> list[str]:
    """Return all words of the grammar, sorted."""
    texts = [*TEMPLATES, *(text for choices in SLOTS.values() for text in choices)]
    return sorted({word for text in texts for word in re.sub(r"\{\w+\}", " ", text).split()})


def sentences(
    count: int, rng: random.Random, excluded: frozenset[str], word_strings: float
) -> list[str]:
    """Draw `count` sentences, none of them among `excluded`; a share of them is random words."""
    words, drawn = vocabulary(), list[str]()
    while len(drawn) < count:
        if rng.random() < word_strings:
            text = " ".join(rng.choices(words, k=rng.randint(2, 8)))
        else:
            text = expand(rng.choice(TEMPLATES), rng)
        if text not in excluded:
            drawn.append(text)
    return drawn


def training_voice(rng: random.Random) -> Voice:
    """Draw a voice for training: one in six from flite, whose speakers sound unlike espeak-ng."""
    if rng.random() < 1 / 6:
        return Voice("flite", rng.choice(FLITE["voices"]))
    variants = [name for name in ESPEAK["variants"] if name not in ESPEAK["held_out"]]
    return Voice("espeak-ng", f"{rng.choice(ESPEAK['accents'])}+{rng.choice(variants)}")


def held_out_voice(rng: random.Random) -> Voice:
    """Draw a voice that training never hears."""
    if rng.random() < 1 / 12:
        return Voice("flite", rng.choice(FLITE["held_out"]))
    accent, variant = rng.choice(ESPEAK["accents"]), rng.choice(ESPEAK["held_out"])
    return Voice("espeak-ng", f"{accent}+{variant}")


def training_utterance(text: str, rng: random.Random) -> Utterance:
    """Draw a manner of speaking, varied more than a listener would expect."""
    return Utterance(
        text,
        training_voice(rng),
        pace=rng.uniform(0.75, 1.1),
        pitch=rng.uniform(0.7, 1.35),
        tract=rng.choice((0.92, 0.96, 1.0, 1.0, 1.04, 1.08)),
    )


def held_out_utterance(text: str, rng: random.Random) -> Utterance:
    """Draw an ordinary manner of speaking for a test clip."""
    pace, pitch = rng.uniform(0.85, 1.0), rng.uniform(0.85, 1.15)
    return Utterance(text, held_out_voice(rng), pace, pitch, tract=1.0)


def plan(seed: int) -> dict[str, list[Utterance]]:
    """Draw the utterances of every split; no sentence of another split occurs in training.

    "seen" has training voices, "clips" held-out ones, "long" LONG_SENTENCES by one held-out voice
    at a time.
    """
    rng = random.Random(seed)
    seen, clips, long = (
        sentences(count, rng, frozenset(), word_strings=0.0)
        for count in (SEEN, CLIPS, LONG * LONG_SENTENCES)
    )
    train = sentences(TRAIN, rng, frozenset([*seen, *clips, *long]), WORD_STRINGS)
    speakers = [held_out_utterance("", rng) for _ in range(LONG)]
    return {
        "train": [training_utterance(text, rng) for text in train],
        "seen": [training_utterance(text, rng) for text in seen],
        "clips": [held_out_utterance(text, rng) for text in clips],
        "long": [replace(speakers[i // LONG_SENTENCES], text=text) for i, text in enumerate(long)],
    }


def command(utterance: Utterance) -> list[str]:
    """Return the engine's command line; either one writes a wave file to standard output."""
    name = utterance.voice.name
    if utterance.voice.engine == "flite":
        stretch = f"duration_stretch={1 / utterance.pace:.3f}"
        pitch = f"int_f0_target_mean={FLITE_PITCH[name] * utterance.pitch:.1f}"
        text = ["-t", utterance.text, "-o", "/dev/stdout"]
        return ["flite", "-voice", name, "--setf", stretch, "--setf", pitch, *text]
    speed, pitch = str(round(175 * utterance.pace)), str(round(50 * utterance.pitch))
    return ["espeak-ng", "-v", name, "-s", speed, "-p", pitch, "--stdout", utterance.text]


def speak(utterance: Utterance) -> Samples:
    """Synthesize at 16 kHz, cut the silence at both ends and scale to the common peak."""
    wave = subprocess.run(command(utterance), check=True, capture_output=True).stdout
    # A piped header lacks a valid length, so `soundfile` refuses it. The rate is at byte 24.
    rate = int.from_bytes(wave[24:28], "little")
    signal = np.frombuffer(wave[44:], dtype="<i2").astype(np.float64)
    # A step of 0.5 % keeps the polyphase filter short and is finer than anyone hears.
    signal = resample_poly(signal, 200, round(200 * rate / RATE * utterance.tract))
    loud = np.flatnonzero(np.abs(signal) > 0.02 * np.abs(signal).max())
    signal = signal[loud[0] : loud[-1] + 1]
    scaled: Samples = (signal * (PEAK * 32767 / np.abs(signal).max())).astype(np.int16)
    return scaled


def speak_all(utterances: list[Utterance], workers: int) -> list[Samples]:
    """Synthesize with a few engine processes at a time, in order."""
    recordings = list[Samples]()
    with ThreadPoolExecutor(workers) as pool:
        for recording in pool.map(speak, utterances):
            recordings.append(recording)
            if len(recordings) % 2000 == 0:
                log.info("synthesized %d of %d utterances", len(recordings), len(utterances))
    return recordings


def synthesize(folder: Path, split: str, utterances: list[Utterance], workers: int) -> None:
    """Write a split as one flat array, its boundaries and its texts, unless it is there already."""
    if (folder / f"{split}.json").exists():
        return
    recordings = speak_all(utterances, workers)
    np.save(folder / f"{split}.npy", np.concatenate(recordings))
    np.save(folder / f"{split}.ends.npy", np.cumsum([len(recording) for recording in recordings]))
    texts = [utterance.text for utterance in utterances]
    (folder / f"{split}.json").write_text(json.dumps(texts), encoding="utf-8")


def load(folder: Path, split: str) -> tuple[list[Samples], list[str]]:
    """Map the recordings of a split, and return their texts."""
    samples = np.load(folder / f"{split}.npy", mmap_mode="r")
    recordings = np.split(samples, np.load(folder / f"{split}.ends.npy")[:-1])
    return recordings, json.loads((folder / f"{split}.json").read_text(encoding="utf-8"))
