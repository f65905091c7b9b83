"""Draw the report's scatter plot of latencies; `exporter.hub.drawing` draws the other plot."""

import math
from collections.abc import Callable, Iterator

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from exporter.hub.drawing import WIDTH, scale, svg, text

_MOST_POINTS = 2000
_DIGIT = 8  # width of a digit of 14 pixels, rounded up


def latency_svg(
    reference_s: NDArray[np.float64], candidate_s: NDArray[np.float64], limit: float
) -> Markup:
    """Draw each clip's seconds on both sides as SVG; below the diagonal is faster.

    Args:
        reference_s: The original's seconds, float64 [timed clips].
        candidate_s: The artifact's seconds, float64 [timed clips].
        limit: The gate's greatest latency ratio, drawn as a line.
    """
    step = math.ceil(len(reference_s) / _MOST_POINTS)
    both = np.concatenate([reference_s, candidate_s])
    low, high = math.log10(both.min() / 1.25), math.log10(both.max() * 1.25)
    ticks = [f"{tick:g}" for tick in log_ticks(low, high)]
    # The labels end at the axis, and its title stands before the longest.
    left = 40 + _DIGIT * max(map(len, ticks), default=0)
    height, bottom = 400, 348
    across, up = scale(low, high, left, WIDTH - 12), scale(low, high, bottom, 12)
    parts = [f'<rect class="frame" x="{left}" y="12" width="{WIDTH - 12 - left}" height="336"/>']
    for tick in log_ticks(low, high):
        x, y = across(math.log10(tick)), up(math.log10(tick))
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="12" x2="{x:.1f}" y2="{bottom}"/>')
        parts.append(
            f'<line class="grid" x1="{left}" y1="{y:.1f}" x2="{WIDTH - 12}" y2="{y:.1f}"/>'
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
        text(WIDTH - 22, bottom - 12, "artifact faster", "end", "note"),
        text((left + WIDTH) / 2, height - 12, "original, seconds a clip"),
        f'<g transform="translate(14 {(bottom + 12) / 2}) rotate(-90)">'
        + text(0, 0, "artifact, seconds a clip")
        + "</g>",
    ]
    return svg(height, "Seconds of each clip, original against artifact", parts)


def _slope(
    across: Callable[[float], float],
    up: Callable[[float], float],
    low: float,
    high: float,
    shift: float,
    name: str,
) -> str:
    """Draw the line candidate = 10^shift times reference, clipped to the frame."""
    start, end = max(low, low - shift), min(high, high - shift)
    if start >= end:
        return ""
    x1, y1, x2, y2 = across(start), up(start + shift), across(end), up(end + shift)
    return f'<line class="{name}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def log_ticks(low: float, high: float) -> Iterator[float]:
    """Yield 1, 2 and 5 times powers of ten between 10^low and 10^high."""
    for power in range(math.floor(low), math.ceil(high) + 1):
        for digit in (1, 2, 5):
            value = digit * 10.0**power
            if low <= math.log10(value) <= high:
                yield value
