"""Draw the plans that were judged: their word errors against latency, and against size."""

from collections.abc import Sequence

from markupsafe import Markup

from exporter.hub.drawing import WIDTH, scale, svg, text, ticks
from exporter.tune.results import Trial

_LEFT, _TOP, _BOTTOM, _HEIGHT = 64, 12, 268, 316
_MB = 1e6


def latency_front(trials: Sequence[Trial], chosen: int | None, limit: float) -> Markup:
    """Draw the change of WER against the time, as a multiple of the original's."""
    places = [trial.latency_ratio for trial in trials]
    return _front(trials, places, chosen, limit, "times the original's time")


def size_front(trials: Sequence[Trial], chosen: int | None, limit: float) -> Markup:
    """Draw the change of WER against the size."""
    places = [trial.size_bytes / _MB for trial in trials]
    return _front(trials, places, chosen, limit, "megabytes")


def _front(
    trials: Sequence[Trial], places: Sequence[float], chosen: int | None, limit: float, unit: str
) -> Markup:
    """Draw trials with the intervals of their WER, and the gate.

    Args:
        trials: The trials, at least one.
        places: The place of each across.
        chosen: The index of the chosen one.
        limit: The greatest increase of WER that passes, a fraction.
        unit: The title of the axis across.
    """
    ends = [0.0, 100 * limit]
    for trial in trials:
        ends += [100 * trial.wer_difference.low, 100 * trial.wer_difference.high]
    across = scale(*_widened(places), _LEFT, WIDTH - 12)
    up = scale(*_widened(ends), _BOTTOM, _TOP)
    gate, right = up(100 * limit), WIDTH - 12
    parts = [
        f'<rect class="bad" x="{_LEFT}" y="{_TOP}" width="{right - _LEFT}" '
        f'height="{gate - _TOP:.1f}"/>',
        f'<rect class="frame" x="{_LEFT}" y="{_TOP}" width="{right - _LEFT}" '
        f'height="{_BOTTOM - _TOP}"/>',
    ]
    for tick in ticks(*_widened(ends)):
        y = up(tick)
        kind = "grid" if tick else "zero"
        parts.append(f'<line class="{kind}" x1="{_LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>')
        parts.append(text(_LEFT - 6, y + 5, f"{tick:+g}" if tick else "0", "end"))
    parts += [text(across(tick), _BOTTOM + 18, f"{tick:g}") for tick in ticks(*_widened(places))]
    parts.append(f'<line class="gate" x1="{_LEFT}" y1="{gate:.1f}" x2="{right}" y2="{gate:.1f}"/>')
    for place, (trial, value) in enumerate(zip(trials, places, strict=True)):
        x, difference = across(value), trial.wer_difference
        low, y, high = (up(100 * v) for v in (difference.low, difference.value, difference.high))
        kind = "value" if trial.passed else "refused"
        parts.append(
            f'<line class="range" x1="{x:.1f}" y1="{low:.1f}" x2="{x:.1f}" y2="{high:.1f}"/>'
        )
        parts.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="5"/>')
        beside, anchor = (x - 14, "end") if x > WIDTH - 60 else (x + 14, "start")
        parts.append(text(beside, y - 6, f"{len(trial.quantized)}", anchor))
        if place == chosen:
            parts.append(f'<circle class="chosen" cx="{x:.1f}" cy="{y:.1f}" r="10"/>')
    parts += [
        text((_LEFT + right) / 2, _BOTTOM + 40, unit),
        f'<g transform="translate(14 {(_BOTTOM + _TOP) / 2}) rotate(-90)">'
        + text(0, 0, "change of WER, points")
        + "</g>",
    ]
    return svg(_HEIGHT, f"Change of WER against {unit} of each plan, with the gate", parts)


def _widened(values: Sequence[float]) -> tuple[float, float]:
    """Return an axis' ends, with room around the values."""
    low, high = min(values), max(values)
    margin = 0.12 * (high - low) or 0.1 * abs(high) or 1.0
    return low - margin, high + margin
