"""The inputs on which an artifact is compared with its original step by step.

Clips of the corpus, and sounds that a corpus seldom has: silence, noise, too loud, too short, as
long as a window. All are made from the clips and a fixed seed, so they are the same in every run.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from exporter.formats.audio import Samples

CLIPS = 10
_SEED = 20_240_229


@dataclass(frozen=True)
class Case:
    """One input: its name, and float32 samples [samples] of at most a window.

    `clip` tells a clip of the corpus. `full`: it is decoded to the decoder's last position.
    """

    name: str
    samples: Samples
    clip: bool = False
    full: bool = False


def cases(clips: Sequence[Samples], names: Sequence[str], window: int, rate: int) -> Iterator[Case]:
    """Yield the cases, clips first.

    Args:
        clips: Some clips of the corpus, float32 [samples] at the model's rate.
        names: Their names.
        window: The samples of the model's window.
        rate: The sampling rate in Hz.
    """
    cut = [clip[:window] for clip in clips]
    for name, samples in zip(names, cut, strict=True):
        yield Case(name, samples, clip=True)
    speech = max(cut, key=len)
    loud = speech / max(float(np.abs(speech).max()), 1e-3)
    random = np.random.default_rng(_SEED)
    noise = random.uniform(-1, 1, min(window, 5 * rate)).astype(np.float32)
    yield Case("all positions of the decoder", speech, full=True)
    yield Case("silence", np.zeros(min(window, 3 * rate), np.float32))
    yield Case("loud noise", noise)
    yield Case("speech at full scale", loud)
    yield Case("clipped speech", np.clip(20 * loud, -1, 1))
    yield Case("speech with a constant offset", np.clip(0.5 * loud + 0.4, -1, 1))
    yield Case("0.05 s of speech", loud[: rate // 20])
    yield Case("speech that fills the window", np.resize(speech, window).astype(np.float32))
    yield Case("one sample less than a window", np.resize(speech, window - 1).astype(np.float32))
