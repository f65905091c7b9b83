"""Chunks of long recordings, which overlap by strides that are cut from the frames afterwards.

The arithmetic is that of transformers' pipeline for `chunk_length_s` and `stride_length_s`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from exporter.runtime.transcript import Audio

_STRIDES = 6  # of a chunk, the default


@dataclass(frozen=True)
class Chunk:
    """Samples of a recording; `left` and `right` of them are in another chunk, too."""

    samples: Audio
    left: int
    right: int

    def own_frames(self, ratio: int) -> slice:
        """Return which of the frames belong to this chunk alone, of `ratio` samples each."""
        total = round(len(self.samples) / ratio)
        left, right = (round(side / len(self.samples) * total) for side in (self.left, self.right))
        return slice(left, total - right)


@dataclass(frozen=True)
class Cut:
    """How recordings are cut, in samples: chunks, and what they overlap by on each side."""

    length: int
    stride: int


def cut_of(chunk_s: float, stride_s: float | None, rate: int, ratio: int) -> Cut:
    """Return the chunks' length and stride in samples, both whole frames.

    Args:
        chunk_s: Seconds of a chunk.
        stride_s: Seconds that it overlaps by on each side; None: a sixth of the chunk.
        rate: The sampling rate in Hz.
        ratio: Samples between the beginnings of two frames.
    """
    if stride_s is None:
        stride_s = chunk_s / _STRIDES
    length, stride = (round(seconds * rate / ratio) * ratio for seconds in (chunk_s, stride_s))
    return Cut(length, stride)


def chunks(blocks: Iterable[Audio], cut: Cut) -> Iterator[Chunk]:
    """Cut a recording, given in consecutive blocks; one within a chunk's length comes whole."""
    held, left = np.empty(0, np.float32), 0
    source = iter(blocks)
    while True:
        held = _filled(held, source, cut.length + 1)
        last = len(held) <= cut.length
        if len(held):
            yield Chunk(held[: cut.length], left, 0 if last else cut.stride)
        if last:
            return
        held, left = held[cut.length - 2 * cut.stride :], cut.stride


def _filled(held: Audio, source: Iterator[Audio], samples: int) -> Audio:
    """Read on until so many samples are held, or all."""
    pieces, have = [held], len(held)
    while have < samples:
        block = next(source, None)
        if block is None:
            break
        pieces.append(block)
        have += len(block)
    return np.concatenate(pieces) if len(pieces) > 1 else held
