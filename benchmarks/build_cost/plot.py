"""The picture of docs/building.md: what a build costs against the number of parameters, as SVG.

Both axes are logarithmic. It carries its own colours for light and for dark pages.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from benchmarks.build_cost.results import OPTIMUM, by_size
from exporter.hub.drawing import scale, text
from exporter.validate.page.plots import log_ticks

_WIDTH, _HEIGHT = 960, 472
_TOP, _BOTTOM = 74, 400
_NEAR = 40  # labels of shapes that lie closer than this would overlap
_STYLE = """
svg { color-scheme: light dark; font-family: system-ui, "Segoe UI", Helvetica, Arial, sans-serif;
  --page: #ffffff; --ink: #1f2328; --dim: #59636e; --grid: #e4e7eb; --frame: #8c959f;
  --c0: #0969da; --c1: #1a7f37; --c2: #8250df; --c3: #bc4c00; }
@media (prefers-color-scheme: dark) { svg {
  --page: #0d1117; --ink: #e6edf3; --dim: #9198a1; --grid: #262c36; --frame: #656c76;
  --c0: #58a6ff; --c1: #3fb950; --c2: #bc8cff; --c3: #f0883e; } }
.page { fill: var(--page); }
text { font-size: 13px; fill: var(--dim); }
.title { font-size: 15px; font-weight: 600; fill: var(--ink); }
.key { fill: var(--ink); }
.note { fill: var(--ink); paint-order: stroke; stroke: var(--page); stroke-width: 3px; }
.grid { stroke: var(--grid); }
.frame { fill: none; stroke: var(--frame); }
.bound { stroke: var(--frame); stroke-dasharray: 2 4; stroke-width: 1.5; }
.line { fill: none; stroke-width: 2; }
.lost { stroke-dasharray: 5 4; }
.mark { stroke: var(--page); stroke-width: 1.5; }
.cross { fill: none; stroke-width: 2.5; }
"""
_MARKS: tuple[str, ...] = (
    "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0z",
    "M-4.5 -4.5h9v9h-9z",
    "M0 -6L5.5 4.5H-5.5z",
    "M0 -6.5L5.5 0L0 6.5L-5.5 0z",
)


@dataclass(frozen=True)
class Point:
    """A figure in pixels; `killed` if the build did not end by itself."""

    x: float
    y: float
    killed: bool


@dataclass(frozen=True)
class Panel:
    """One quantity: its title, the key of its figures, their unit and how a tick is told."""

    title: str
    key: str
    unit: float
    left: float
    right: float
    tick: Callable[[float], str]


_PANELS = (
    Panel("Peak memory of the build command", "command_peak_bytes", 1e9, 62, 470, "{:g} GB".format),
    Panel("Time of the build command", "command_s", 1.0, 540, 948, "{:g} s".format),
)


def draw(results: dict[str, Any]) -> str:
    """Two panels, memory and time, with a line for each way to build."""
    ways = list(dict.fromkeys(way for told in results["shapes"].values() for way in told["ways"]))
    parts = [f"<style>{_STYLE}</style>", '<rect class="page" width="100%" height="100%"/>']
    parts += _legend(ways)
    for panel in _PANELS:
        parts += _panel(panel, results, ways)
    label = "Peak memory and time of builds against the number of parameters"
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-label="{label}">'
    )
    return head + "\n".join(parts) + "</svg>\n"


def _legend(ways: list[str]) -> list[str]:
    parts = []
    for index, way in enumerate(ways):
        x = 62 + 130 * index
        parts.append(f'<path class="line" style="stroke:{_colour(index)}" d="M{x} 20h28"/>')
        parts.append(_mark(index, x + 14, 20))
        told = "optimum's own" if way == OPTIMUM else way
        parts.append(text(x + 35, 25, told, "start", "key"))
    return parts


def _panel(panel: Panel, results: dict[str, Any], ways: list[str]) -> list[str]:
    shapes = dict(by_size(results))
    sizes = [math.log10(told["parameters"]) for told in shapes.values()]
    values = [
        math.log10(figures[panel.key] / panel.unit)
        for told in shapes.values()
        for figures in told["ways"].values()
        if panel.key in figures
    ]
    memory = math.log10(results["machine"]["memory_bytes"] / 1e9)
    bounded = panel.unit != 1
    low, high = min(values) - 0.15, max([*values, *([memory] if bounded else [])]) + 0.15
    across = scale(min(sizes) - 0.08, max(sizes) + 0.12, panel.left, panel.right)
    up = scale(low, high, _BOTTOM, _TOP)
    parts = [text(panel.left, _TOP - 14, panel.title, "start", "title")]
    parts += _axes(panel, up, low, high)
    parts += _shape_labels(shapes, across)
    if bounded:
        y = up(memory)
        parts.append(
            f'<path class="bound" d="M{panel.left} {y:.1f}H{panel.right}"/>'
            + text(panel.left + 8, y + 17, "all memory of this machine", "start")
        )
    series = {way: _points(panel, shapes, way, across, up) for way in ways}
    for index, points in enumerate(series.values()):
        parts += _series(points, index)
    lines = [(a, b) for points in series.values() for a, b in pairwise(points)]
    for point in (each for points in series.values() for each in points if each.killed):
        parts.append(text(point.x, _free_height(point, lines), "killed", name="note"))
    return parts


def _axes(panel: Panel, up: Callable[[float], float], low: float, high: float) -> list[str]:
    left, right = panel.left, panel.right
    parts = []
    for tick in log_ticks(low, high):
        y = up(math.log10(tick))
        parts.append(f'<path class="grid" d="M{left} {y:.1f}H{right}"/>')
        parts.append(text(left - 7, y + 4.5, panel.tick(tick), "end"))
    size = f'width="{right - left}" height="{_BOTTOM - _TOP}"'
    parts.append(f'<rect class="frame" x="{left}" y="{_TOP}" {size}/>')
    return parts


def _shape_labels(shapes: dict[str, Any], across: Callable[[float], float]) -> list[str]:
    """Names and parameters below the axis, in a third row where the shape before lies close."""
    parts = []
    last = -math.inf
    for name, told in shapes.items():
        x = across(math.log10(told["parameters"]))
        parts.append(f'<path class="grid" d="M{x:.1f} {_TOP}V{_BOTTOM + 5}"/>')
        million = f"{told['parameters'] / 1e6:.0f} M"
        if x - last < _NEAR:
            parts.append(text(x, _BOTTOM + 59, f"{name}, {million}"))
            continue
        parts.append(text(x, _BOTTOM + 21, name, name="note"))
        parts.append(text(x, _BOTTOM + 38, million))
        last = x
    return parts


def _points(
    panel: Panel,
    shapes: dict[str, Any],
    way: str,
    across: Callable[[float], float],
    up: Callable[[float], float],
) -> list[Point]:
    return [
        Point(
            across(math.log10(told["parameters"])),
            up(math.log10(told["ways"][way][panel.key] / panel.unit)),
            bool(told["ways"][way]["killed_for"]),
        )
        for told in shapes.values()
        if panel.key in told["ways"].get(way, {})
    ]


def _series(points: list[Point], index: int) -> list[str]:
    """The line of one way; a cross, reached by a broken line, is where a build was killed."""
    parts = []
    for start, end in pairwise(points):
        name = "line lost" if end.killed else "line"
        colour = f"stroke:{_colour(index)}"
        path = f"M{start.x:.1f} {start.y:.1f}L{end.x:.1f} {end.y:.1f}"
        parts.append(f'<path class="{name}" style="{colour}" d="{path}"/>')
    for point in points:
        draw = _cross if point.killed else _mark
        parts.append(draw(index, point.x, point.y))
    return parts


def _free_height(point: Point, lines: list[tuple[Point, Point]]) -> float:
    """Return the baseline of a label below a point, or above it where a line is in the way."""
    below = point.y + 23
    box = (point.x - 20, point.x + 20, below - 12, below + 3)  # of "killed" in 13 pixels
    return point.y - 12 if any(_crosses(box, *line) for line in lines) else below


def _crosses(box: tuple[float, float, float, float], start: Point, end: Point) -> bool:
    left, right, top, bottom = box
    steps = [step / 100 for step in range(101)]
    return any(
        left < start.x + step * (end.x - start.x) < right
        and top < start.y + step * (end.y - start.y) < bottom
        for step in steps
    )


def _mark(index: int, x: float, y: float) -> str:
    place = f'transform="translate({x:.1f} {y:.1f})"'
    shape = _MARKS[index % len(_MARKS)]
    return f'<path class="mark" style="fill:{_colour(index)}" {place} d="{shape}"/>'


def _cross(index: int, x: float, y: float) -> str:
    place = f'transform="translate({x:.1f} {y:.1f})"'
    colour = f"stroke:{_colour(index)}"
    return f'<path class="cross" style="{colour}" {place} d="M-6 -6L6 6M-6 6L6 -6"/>'


def _colour(index: int) -> str:
    return f"var(--c{index % len(_MARKS)})"
