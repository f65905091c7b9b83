"""Draw the report's plots of latencies and of steps; `exporter.hub.drawing` draws the other."""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from exporter.artifact.evidence import Faithfulness
from exporter.hub.drawing import WIDTH, scale, svg, text, ticks

_MOST_POINTS = 2000
_MOST_STEPS = 200
_MOST_POWERS = 6
_LEAST_TIMES = 0.01  # of rounding: what is closer is drawn there
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


def steps_svg(found: Faithfulness) -> Markup:
    """Draw the distance from the plan's numbers over steps, and that of all, with their bounds.

    The axis is logarithmic, in multiples of what rounding alone does.

    Args:
        found: The distances, of at least one step.
    """
    steps, overall = _most(found.by_step), found.distance / found.noise
    shown = [max(value, _LEAST_TIMES) for value in (*(y for _, y in steps), overall)]
    low = math.log10(min(0.5, *shown) / 1.3)
    high = math.log10(max(found.step_limit, found.limit, *shown) * 1.5)
    labels = list(_times_ticks(low, high))
    left = 40 + _DIGIT * max(len(f"{tick:g}") for tick in labels)
    bottom, right, all_left = 248, WIDTH - 122, WIDTH - 106
    up = scale(low, high, bottom, 12)
    across = scale(0.5, len(found.by_step) + 0.5, left, right)
    parts = [
        *_bounded(left, right, up(math.log10(found.step_limit)), bottom),
        *_bounded(all_left, WIDTH - 12, up(math.log10(found.limit)), bottom),
    ]
    for tick in labels:
        y = up(math.log10(tick))
        kind = "zero" if tick == 1 else "grid"
        parts += [
            f'<line class="{kind}" x1="{x1}" y1="{y:.1f}" x2="{x2}" y2="{y:.1f}"/>'
            for x1, x2 in ((left, right), (all_left, WIDTH - 12))
        ]
        parts.append(text(left - 6, y + 5, f"{tick:g}", "end"))
    for tick in ticks(0.5, len(found.by_step) + 0.5):
        if tick == int(tick) >= 1:
            parts.append(text(across(tick), bottom + 18, f"{tick:g}"))
    places = [(across(x), up(math.log10(max(y, _LEAST_TIMES)))) for x, y in steps]
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dot = 'class="step" cx="{:.1f}" cy="{:.1f}"'
    middle = (all_left + WIDTH - 12) / 2
    parts += [
        f'<polyline class="steps" points="{joined}"/>',
        *(f'<circle {dot.format(x, y)} r="3"/>' for x, y in places),
        f'<circle {dot.format(middle, up(math.log10(shown[-1])))} r="6"/>',
        text(
            left + 8,
            up(math.log10(found.step_limit)) - 6,
            f"at most {found.step_limit:g}",
            "start",
            "note",
        ),
        text(middle, up(math.log10(found.limit)) - 6, f"at most {found.limit:g}", name="note"),
        text((left + right) / 2, bottom + 40, "step"),
        text(middle, bottom + 40, "all steps"),
        f'<g transform="translate(14 {(bottom + 12) / 2}) rotate(-90)">'
        + text(0, 0, "times rounding")
        + "</g>",
    ]
    return svg(bottom + 48, "Distance from the plan's numbers by step, with its bound", parts)


def _bounded(left: float, right: float, limit: float, bottom: float) -> list[str]:
    """Draw a frame with its bound at the height `limit`, and the space beyond it."""
    width = right - left
    return [
        f'<rect class="bad" x="{left}" y="12" width="{width}" height="{limit - 12:.1f}"/>',
        f'<rect class="frame" x="{left}" y="12" width="{width}" height="{bottom - 12}"/>',
        f'<line class="gate" x1="{left}" y1="{limit:.1f}" x2="{right}" y2="{limit:.1f}"/>',
    ]


def _most(values: Sequence[float]) -> list[tuple[float, float]]:
    """Return steps and values; of very many, the greatest of each few, at its own step."""
    few = math.ceil(len(values) / _MOST_STEPS)
    starts = range(0, len(values), few)
    found = (max(range(s, min(s + few, len(values))), key=values.__getitem__) for s in starts)
    return [(place + 1, values[place]) for place in found]


def _times_ticks(low: float, high: float) -> Iterator[float]:
    """Yield ticks of a logarithmic axis: fewer where it spans many powers of ten."""
    every = math.ceil((high - low) / _MOST_POWERS)
    for tick in log_ticks(low, high):
        power = math.log10(tick)
        if high - low < 2 or (power == int(power) and int(power) % every == 0):
            yield tick


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
