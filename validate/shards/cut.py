"""Cut clips into shards: about as much work each, the same ones on every machine.

Nothing is opened: durations are those that the data tell, or are estimated from sizes.
"""

import math
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from exporter.formats.clips import Clip
from exporter.recognition.parts import estimated_s

WINDOW_S = 30.0  # that models of speech hear at a time; a shorter clip costs as much
# 5 to 10 minutes of work: less, and opening a model for each shard would show; more, and a kill
# would lose much. In float32, a window takes about 20 ns a parameter with two threads, from
# whisper-tiny to large-v3 (docs/speed.md); quantized, about a quarter.
_WORK_S = 600.0
_S_A_PARAMETER = {True: 20e-9, False: 5e-9}
_FEWEST, _MOST = 8, 4096


def windows_of(parameters: int, *, original: bool) -> int:
    """Return how many windows a model hears in a shard.

    Args:
        parameters: The checkpoint's parameters.
        original: Whether it runs in float32; else it is an artifact.
    """
    wanted = _WORK_S / (max(parameters, 1) * _S_A_PARAMETER[original])
    return int(min(_MOST, max(_FEWEST, wanted)))


def cut(clips: Iterable[Clip], windows: int, batch_size: int, least: int = 1) -> list[range]:
    """Cut clips, in their order, into shards of equally many windows.

    Args:
        clips: The clips.
        windows: About how many windows a shard has at most.
        batch_size: Clips that are decoded together; a shard ends with a batch.
        least: Cut into so many shards, if there are batches enough.

    Returns:
        The clips of each shard, by their places; none is empty.
    """
    done = np.cumsum(_windows(clips))
    if not len(done):
        return []
    count = max(least, math.ceil(done[-1] / windows))
    inner = np.searchsorted(done, done[-1] * np.arange(1, count) / count, side="right")
    whole = np.rint(inner / batch_size).astype(np.int64) * batch_size
    ends = np.unique([0, *np.minimum(whole, len(done)), len(done)]).tolist()
    return [range(start, end) for start, end in pairwise(ends)]


def windows_in(clips: Iterable[Clip]) -> int:
    """Return about how many windows of 30 s clips have; a shorter clip has one."""
    return int(_windows(clips).sum())


def _windows(clips: Iterable[Clip]) -> NDArray[np.float64]:
    seconds = np.fromiter(map(estimated_s, clips), dtype=np.float64)
    return np.maximum(1, np.ceil(seconds / WINDOW_S))
