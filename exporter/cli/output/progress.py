"""Progress of a command: one line on a terminal, or a message a minute elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, RLock, Thread

from exporter.system.text import harmless, width_of

_BAR, _LEAST_NAME = 20, 24  # columns
# A speed is told only after so much of a step, since the first pieces are often the slowest.
_LEAST_DONE, _LEAST_S = 0.02, 5.0
_MOMENT_S = 0.1
_MINUTES_FROM_S = 90
_MINUTE_S, _HOUR_S = 60, 3600

Clock = Callable[[], float]


@dataclass
class Pace:
    """What is being done, for how long, and how much time is left as far as that is known."""

    clock: Clock = time.monotonic
    what: str = "starting"
    done: float | None = None
    _step: tuple[float, float] | None = None
    _last: tuple[float, float] = (0.0, 0.0)
    _expected: float | None = None

    def __post_init__(self) -> None:
        self._began = self.clock()

    def tell(self, what: str, done: float | None) -> None:
        """Take note of the current step and its fraction done, or None."""
        now = self.clock()
        self.what, self.done = harmless(what), done
        if done is None:
            self._step = None
            return
        if self._step is None or done < self._last[1]:  # a new step: another speed
            self._step = now, done
        self._last = now, done

    def expect(self, seconds: float) -> None:
        """Take note of an estimate of the time left for all that is done now."""
        self._expected = self.clock() + seconds

    def left_s(self) -> float | None:
        """Return the seconds left: by the estimate until it is over, else by the step's speed."""
        now = self.clock()
        if self._expected is not None and self._expected > now:
            return self._expected - now
        if self.done is None or self._step is None:
            return None
        (began, first), (last, done) = self._step, self._last
        if done - first < _LEAST_DONE or last - began < _LEAST_S:
            return None
        left = (1 - done) * (last - began) / (done - first) - (now - last)
        return left if left > 0 else None

    def times(self) -> str:
        """Return the time elapsed, and the time left if it is known."""
        elapsed = f"elapsed {_clock_face(self.clock() - self._began)}"
        left = self.left_s()
        return elapsed if left is None else f"{elapsed}, {_about(left)} left"

    def sentence(self) -> str:
        """Return the message for a pipe or a log."""
        percent = f" {self.done:.0%}" if self.done else ""
        return f"{self.what}{percent}: {self.times()}"

    def line(self, width: int) -> str:
        """Return the line for a terminal of `width` columns; only the step's name is shortened."""
        times, percent = self.times(), f"{self.done:.0%}  " if self.done else ""
        bar = f"{_bar(self.done)}  " if self.done else ""
        name = width_of(self.what) + 3
        forms = (
            (bar + percent + times, name),
            (percent + times, name),
            (percent + times, _LEAST_NAME),
            (percent + times.rpartition(", ")[2], 0),
        )
        rest = next(form for form, room in forms if len(form) + room <= width or not room)
        return f"{_shortened(self.what, max(8, width - len(rest) - 3))}  {rest}"


def _bar(done: float) -> str:
    full = round(_BAR * min(done, 1))
    return "█" * full + "░" * (_BAR - full)


def _clock_face(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), _MINUTE_S)
    hours, minutes = divmod(minutes, _MINUTE_S)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _about(seconds: float) -> str:
    """Return a duration without more digits than an estimate has."""
    if seconds >= _HOUR_S:
        hours, rest = divmod(round(seconds / _MINUTE_S), _MINUTE_S)
        return f"about {hours} h {rest} min" if rest else f"about {hours} h"
    if seconds >= _MINUTES_FROM_S:
        return f"about {seconds / _MINUTE_S:.0f} min"
    return f"about {max(5, round(seconds / 5) * 5)} s"


def _shortened(text: str, width: int) -> str:
    """Return a text with its middle left out where it takes more than `width` columns."""
    if width_of(text) <= width:
        return text
    head, tail = text[: width // 2], text[len(text) - (width - 1) // 2 :]
    while width_of(head) + width_of(tail) >= width and head:
        head, tail = head[:-1], tail[1:]
    return f"{head}…{tail}"


class Ticker:
    """Calls a function at intervals, in a thread of its own, while a block runs."""

    def __init__(self, tick: Callable[[], None], every_s: float) -> None:
        self._tick, self._every_s = tick, every_s
        self._stopped = Event()
        self._thread = Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._stopped.wait(self._every_s):
            self._tick()

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(timeout=1)


class Line:
    """The line of a terminal that shows a pace."""

    def __init__(self, write: Callable[[str], None], width: Callable[[], int], pace: Pace) -> None:
        self._write, self._width, self._pace = write, width, pace
        self._lock = RLock()
        self._there = False
        self._drawn_at = 0.0

    def tell(self, what: str, done: float | None) -> None:
        """Take note of a step, and draw it unless the line was drawn a moment ago."""
        self._pace.tell(what, done)
        if self._pace.clock() - self._drawn_at > _MOMENT_S:
            self.draw()

    def draw(self) -> None:
        """Write the line over the last one."""
        with self._lock:
            self._write(f"\r{self._pace.line(self._width())}\x1b[K")
            self._there = True
            self._drawn_at = self._pace.clock()

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Take the line away while other lines are printed; the next tick draws it again."""
        with self._lock:
            if self._there:
                self._write("\r\x1b[K")
                self._there = False
            yield
