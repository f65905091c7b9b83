"""The report's two pictures as inline SVG, coloured by the page's style sheet, light and dark.

Written by hand because a drawing of thirty lines needs no plotting library in the product.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from exporter.report import Interval

_WIDTH = 480
_MOST_POINTS = 2000


def interval_svg(difference: Interval, limit: float) -> Markup:
    """The WER difference with its interval, drawn against zero and the gate's line."""
    ends = (0.0, 100 * limit, 100 * difference.low, 100 * difference.high)
    margin = 0.12 * (max(ends) - min(ends) or 1.0)
    low, high = min(ends) - margin, max(ends) + margin
    across = scale(low, high, 16, _WIDTH - 16)
    gate, left, right = (across(100 * v) for v in (limit, difference.low, difference.high))
    middle = across(100 * difference.value)
    parts = [
        f'<rect class="bad" x="{gate:.1f}" y="22" width="{_WIDTH - 16 - gate:.1f}" height="58"/>',
        f'<line class="axis" x1="16" y1="80" x2="{_WIDTH - 16}" y2="80"/>',
    ]
    for tick in _ticks(low, high):
        x = across(tick)
        parts.append(f'<line class="axis" x1="{x:.1f}" y1="80" x2="{x:.1f}" y2="85"/>')
        parts.append(text(x, 100, f"{tick:+g}" if tick else "0"))
    parts += [
        f'<line class="zero" x1="{across(0):.1f}" y1="22" x2="{across(0):.1f}" y2="80"/>',
        f'<line class="gate" x1="{gate:.1f}" y1="22" x2="{gate:.1f}" y2="80"/>',
        text(gate, 15, f"gate {100 * limit:+g}"),
        f'<line class="range" x1="{left:.1f}" y1="52" x2="{right:.1f}" y2="52"/>',
        *(
            f'<line class="range" x1="{x:.1f}" y1="44" x2="{x:.1f}" y2="60"/>'
            for x in (left, right)
        ),
        f'<circle class="value" cx="{middle:.1f}" cy="52" r="6"/>',
        text(_WIDTH / 2, 122, "change of the word error rate, percentage points"),
    ]
    return _svg(128, "WER difference with its 95 % interval and the gate", parts)


def latency_svg(
    reference_s: NDArray[np.float64], candidate_s: NDArray[np.float64], limit: float
) -> Markup:
    """Each clip's seconds on both sides, on logarithmic axes; below the diagonal is faster."""
    step = math.ceil(len(reference_s) / _MOST_POINTS)
    both = np.concatenate([reference_s, candidate_s])
    low, high = math.log10(both.min() / 1.25), math.log10(both.max() * 1.25)
    height, left, bottom = 400, 52, 348
    across, up = scale(low, high, left, _WIDTH - 12), scale(low, high, bottom, 12)
    parts = [f'<rect class="frame" x="{left}" y="12" width="{_WIDTH - 12 - left}" height="336"/>']
    for tick in log_ticks(low, high):
        x, y = across(math.log10(tick)), up(math.log10(tick))
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="12" x2="{x:.1f}" y2="{bottom}"/>')
        parts.append(
            f'<line class="grid" x1="{left}" y1="{y:.1f}" x2="{_WIDTH - 12}" y2="{y:.1f}"/>'
        )
        parts.append(text(x, bottom + 18, f"{tick:g}"))
        parts.append(text(left - 6, y + 5, f"{tick:g}", "end"))
    parts.append(_slope(across, up, low, high, 0.0, "zero"))
    if limit != 1:
        parts.append(_slope(across, up, low, high, math.log10(limit), "gate"))
    for x, y in zip(np.log10(reference_s[::step]), np.log10(candidate_s[::step]), strict=True):
        parts.append(f'<circle class="clip" cx="{across(x):.1f}" cy="{up(y):.1f}" r="4"/>')
    parts += [
        text(left + 10, 32, "artifact slower", "start", "note"),
        text(_WIDTH - 22, bottom - 12, "artifact faster", "end", "note"),
        text((left + _WIDTH) / 2, height - 12, "original, seconds a clip"),
        f'<g transform="translate(14 {(bottom + 12) / 2}) rotate(-90)">'
        + text(0, 0, "artifact, seconds a clip")
        + "</g>",
    ]
    return _svg(height, "Seconds of each clip, original against artifact", parts)


def _slope(
    across: Callable[[float], float],
    up: Callable[[float], float],
    low: float,
    high: float,
    shift: float,
    name: str,
) -> str:
    """The line candidate = 10^shift times reference, cut at the frame."""
    start, end = max(low, low - shift), min(high, high - shift)
    if start >= end:
        return ""
    x1, y1, x2, y2 = across(start), up(start + shift), across(end), up(end + shift)
    return f'<line class="{name}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Map values from low to high onto places from start to end."""
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _ticks(low: float, high: float) -> Iterator[float]:
    """Round numbers between two ends, four to eight of them."""
    rough = (high - low) / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(nice * power for nice in (1, 2, 5, 10) if nice * power >= rough)
    for index in range(math.ceil(low / step), math.floor(high / step) + 1):
        yield round(index * step, 10)


def log_ticks(low: float, high: float) -> Iterator[float]:
    """The numbers 1, 2 and 5, times powers of ten, between 10^low and 10^high."""
    for power in range(math.floor(low), math.ceil(high) + 1):
        for digit in (1, 2, 5):
            value = digit * 10.0**power
            if low <= math.log10(value) <= high:
                yield value


def text(x: float, y: float, words: str, anchor: str = "middle", name: str = "label") -> str:
    """Words at a place; `anchor` tells which part of them lies there."""
    return f'<text class="{name}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{words}</text>'


def _svg(height: int, label: str, parts: list[str]) -> Markup:
    head = f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{label}">'
    return Markup(head + "".join(parts) + "</svg>")  # safe: numbers and our own words only
