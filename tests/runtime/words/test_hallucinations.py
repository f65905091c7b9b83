"""Segments in silence, against openai-whisper's own statements."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporter.families.whisper import family
from exporter.runtime.transcript import Word
from exporter.runtime.words.hallucinations import Place, is_anomaly, without_hallucinations
from exporter.runtime.words.timing import Span
from tests.support.openai_timing import skip_hallucinations
from tests.support.whisper import multilingual, opened, sounds


def drawn(seed: int, start_s: float) -> list[Span]:
    """Segments whose words are likely or not, long or short, with pauses between them."""
    random = np.random.default_rng(seed)
    at, spans = start_s + float(random.choice([0.0, 0.5, 3.0])), []
    for number in range(int(random.integers(0, 5))):
        words = []
        likely = random.random() < 0.6
        for _ in range(int(random.integers(0, 5))):
            lasts = float(random.choice([0.02, 0.1, 0.4, 0.6, 3.0], p=[0.1, 0.1, 0.4, 0.3, 0.1]))
            text = str(random.choice([" a", ".", " b", ","]))
            chance = float(random.uniform(0.5, 1) if likely else random.uniform(0, 0.3))
            words.append(Word(at, at + lasts, text, chance))
            at = words[-1].end_s
        start = words[0].start_s if words else at
        spans.append(Span(start, at, [number], words))
        at = round(at + float(random.choice([0.0, 0.5, 1.5, 5.0])), 2)
    return spans


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("threshold_s", [0.4, 1.0, 2.0, 8.0])
def test_segments_and_seeks(threshold_s: float, single: bool) -> None:
    dropped = 0
    for seed in range(300):
        random = np.random.default_rng(1000 + seed)
        seek = int(random.choice([0, 1234, 6000]))
        frames = int(random.choice([3000, 2100, 900]))
        heard = seek + frames + (2000 if frames == 3000 else 0)
        moved = int(random.integers(100, 3000))
        last_s = float(max(seek / 100 - random.choice([0.0, 3.0]), 0))
        spans = drawn(seed, seek / 100)
        rows: list[dict[str, Any]] = [
            {
                "start": span.start_s,
                "end": span.end_s,
                "words": [
                    {
                        "word": w.text,
                        "start": w.start_s,
                        "end": w.end_s,
                        "probability": w.probability,
                    }
                    for w in span.words
                ],
            }
            for span in spans
        ]
        expected = skip_hallucinations(
            rows, threshold_s, seek, seek + moved, frames, heard, last_s, single
        )
        place = Place(seek, frames, 3000, heard)
        kept, on = without_hallucinations(spans, threshold_s, place, moved, last_s, single=single)
        assert (kept, seek + on) == (expected[0], max(expected[1], seek + 10))
        dropped += kept < len(spans)
    assert dropped > 20


def test_what_is_unlikely() -> None:
    def of(*words: tuple[float, float], text: str = " a") -> Span:
        made = [Word(n * 5.0, n * 5 + lasts, text, p) for n, (lasts, p) in enumerate(words)]
        return Span(0, 9, [], made)

    assert not is_anomaly(None)
    assert not is_anomaly(of())
    assert not is_anomaly(of((0.4, 0.9)))
    assert is_anomaly(of((0.4, 0.1)))
    assert is_anomaly(of((0.02, 0.9)))
    assert is_anomaly(of((3.2, 0.9)))
    assert not is_anomaly(of((0.4, 0.9), (0.4, 0.1)))
    assert is_anomaly(of((0.4, 0.9), text="."))


@pytest.mark.parametrize("length_s", [2.0, 9.3])
def test_recordings(tiny_whisper: Path, length_s: float) -> None:
    """Decoding ends, and the original is decoded as its modules are. Noise has much to drop."""
    how = {"word_timestamps": True, "timestamps": True}
    processor, audio = family.processor(tiny_whisper), sounds(length_s)
    plain = multilingual(**how)
    careful = multilingual(**how, hallucination_silence_threshold=0.2)
    original = family.open_original(tiny_whisper)
    (without,) = family.transcribe(original, processor, audio, plain)
    (found,) = family.transcribe(original, processor, audio, careful)
    assert found.segments != without.segments
    for cut in ("eager", "dynamic", "static"):
        (other,) = family.transcribe(opened(tiny_whisper, cut), processor, audio, careful)
        assert cut != "eager" or other == found
        ends = [one.end_s for one in other.segments]
        assert ends == sorted(ends)
        assert all(end <= length_s for end in ends)
