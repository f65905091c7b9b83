"""How far a transcription of many recordings is: in hours of audio, and its speed."""

from __future__ import annotations

import time
from collections.abc import Callable

from exporter.recognition.recordings import Recordings
from exporter.system.files import readable_name

_HOUR_S, _MINUTE_S = 3600, 60
_LEAST_S = 5.0  # before that, a speed says little


class Meter:
    """Counts the audio that was heard, and tells how much there is.

    What the data do not say of the whole is estimated from what was heard and the files' sizes.
    """

    def __init__(self, recordings: Recordings, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with nothing heard; `clock` gives seconds."""
        self._all, self._clock = recordings, clock
        self._began = clock()
        self._count, self._heard_s, self._heard_bytes = 0, 0.0, 0

    def heard(self, seconds: float, size_bytes: int) -> None:
        """Count a recording that is done."""
        self._count += 1
        self._heard_s += seconds
        self._heard_bytes += size_bytes

    def told(self, name: str) -> tuple[str, float]:
        """Return what to tell when a recording begins, and the fraction that is done."""
        count = len(self._all)
        told = f"file {self._count + 1} of {count} ({readable_name(name)})"
        total_s, fraction = self._total()
        if count > 1 and self._heard_s:
            about = "about " if self._all.untimed else ""
            whole = f" of {about}{shown(total_s)}" if total_s else ""
            told += f", {shown(self._heard_s)}{whole} of audio"
            passed = self._clock() - self._began
            if passed > _LEAST_S:
                told += f", {self._heard_s / passed:.3g}x real time"
        return told, fraction

    def _total(self) -> tuple[float, float]:
        """Return the seconds of all recordings, 0 if they are not known, and the fraction done."""
        every = self._all
        if not every.untimed:
            return every.audio_s, min(1.0, self._heard_s / every.audio_s)
        if not every.unsized and self._heard_bytes:
            fraction = min(1.0, self._heard_bytes / every.size_bytes)
            return self._heard_s / fraction, fraction
        return 0.0, self._count / len(every)


def shown(seconds: float) -> str:
    """Return a length of audio: 12 s, 7 min, 3.4 h, 1,200 h."""
    if seconds < 2 * _MINUTE_S:
        return f"{seconds:.0f} s"
    if seconds < 2 * _HOUR_S:
        return f"{seconds / _MINUTE_S:.0f} min"
    hours = seconds / _HOUR_S
    return f"{hours:.1f} h" if hours < 100 else f"{hours:,.0f} h"
