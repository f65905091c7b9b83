"""The picture of benchmarks/schemes.py: a bar for each scheme and target, as SVG."""

from __future__ import annotations

import statistics
from typing import Any

from exporter.hub.drawing import WIDTH, scale, standalone, svg, text

_LABEL, _VALUE, _ROW, _BAR, _HEAD = 178, 128, 22, 14, 40


def draw(told: dict[str, Any]) -> str:
    """Draw the milliseconds of each artifact that was timed, a panel for each part.

    Args:
        told: The figures that benchmarks/schemes.py keeps.

    Returns:
        The text of an SVG file.
    """
    parts: list[str] = []
    top = 0
    for name, entry in told.items():
        rows = {key: row for key, row in entry["rows"].items() if row.get("seconds")}
        if rows:
            parts += _panel(name, entry["unit"], rows, top)
            top += _HEAD + _ROW * len(rows) + 14
    return standalone(svg(top, "Milliseconds and megabytes of each scheme", parts))


def _panel(name: str, unit: str, rows: dict[str, Any], top: int) -> list[str]:
    """Draw the bars of one part of a model, with their sizes."""
    part, _, model = name.partition(" ")
    times = {key: 1e3 * statistics.median(row["seconds"]) for key, row in rows.items()}
    across = scale(0, max(times.values()), _LABEL, WIDTH - _VALUE)
    parts = [text(8, top + 24, f"{part} of {model}: ms / {unit}, size", "start")]
    for index, (key, row) in enumerate(rows.items()):
        y, end = top + _HEAD + index * _ROW, across(times[key])
        size = f'width="{end - _LABEL:.1f}" height="{_BAR}"'
        told = f"{times[key]:.3g} ms, {row['size_bytes'] / 1e6:.0f} MB"
        parts += [
            text(_LABEL - 8, y + 11.5, ", ".join(key.split(" ")), "end"),
            f'<rect class="value" x="{_LABEL}" y="{y}" {size}/>',
            text(end + 6, y + 11.5, told, "start"),
        ]
    return parts
