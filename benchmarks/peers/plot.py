"""The picture: seconds of one greedy window, a bar for each rival, as SVG.

A panel for each shape, each with a scale of its own from zero: ratios are what is to be seen. It
carries its own colours for light and for dark pages.
"""

from __future__ import annotations

from html import escape
from typing import Any

from benchmarks.peers.systems import RIVALS
from exporter.hub.drawing import scale, text

_WIDTH, _COLUMNS = 960, 2
_ROW, _BAR = 22, 14
_LABEL, _VALUE = 196, 60  # room for a rival's name, and for what stands after its bar
_HEAD, _GAP = 44, 18
_STYLE = """
svg { color-scheme: light dark; font-family: system-ui, "Segoe UI", Helvetica, Arial, sans-serif;
  --page: #ffffff; --ink: #1f2328; --dim: #59636e; --frame: #8c959f;
  --ours: #0969da; --theirs: #afb8c1; }
@media (prefers-color-scheme: dark) { svg {
  --page: #0d1117; --ink: #e6edf3; --dim: #9198a1; --frame: #656c76;
  --ours: #58a6ff; --theirs: #484f58; } }
.page { fill: var(--page); }
text { font-size: 13px; fill: var(--dim); }
.title { font-size: 15px; font-weight: 600; fill: var(--ink); }
.key, .value { fill: var(--ink); }
.ours { fill: var(--ours); }
.theirs { fill: var(--theirs); }
.range { stroke: var(--ink); stroke-width: 1.2; }
.frame { stroke: var(--frame); }
"""
_OURS = ("aoti", "onnx-int8", "torch-int8")


def draw(results: dict[str, Any]) -> str:
    """One panel for each shape that was measured with one window and greedily."""
    entries = [e for e in results["entries"] if (e["batch"], e["beams"]) == (1, 1)]
    parts: list[str] = []
    tops = [0.0] * _COLUMNS
    for entry in entries:
        column = tops.index(min(tops))
        width = (_WIDTH - _GAP) / _COLUMNS
        panel, height = _panel(entry, column * (width + _GAP), tops[column], width)
        parts += panel
        tops[column] += height + _GAP
    height = max(tops)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" '
        f'width="{_WIDTH}" height="{height:.0f}" role="img" '
        'aria-label="Seconds to transcribe one window of thirty seconds, by rival and shape">'
    )
    page = [f"<style>{_STYLE}</style>", '<rect class="page" width="100%" height="100%"/>']
    return head + "\n".join([*page, *parts]) + "</svg>\n"


def _panel(entry: dict[str, Any], left: float, top: float, width: float) -> tuple[list[str], float]:
    """The bars of one shape, fastest first, and the panel's height."""
    rows = {name: entry["rivals"][name] for name in RIVALS if name in entry["rivals"]}
    measured = {name: row["seconds"] for name, row in rows.items() if "seconds" in row}
    order = sorted(measured, key=lambda name: float(measured[name]["median"]))
    order += [name for name in rows if name not in measured]
    longest = max((seconds["max"] for seconds in measured.values()), default=1.0)
    start = left + _LABEL
    across = scale(0, longest, start, left + width - _VALUE)
    name = f"{entry['shape']}, {entry['parameters'] / 1e6:.0f} M parameters"
    parts = [text(left + 12, top + 27, name, "start", "title")]
    for index, rival in enumerate(order):
        y = top + _HEAD + index * _ROW
        parts.append(text(start - 8, y + 11.5, escape(rows[rival]["label"]), "end", "key"))
        if rival in measured:
            parts += _bar(measured[rival], rival in _OURS, across, y)
        else:
            parts.append(text(start + 4, y + 11.5, _short(rows[rival]["failed"]), "start"))
    bottom = _HEAD + len(order) * _ROW
    parts.append(f'<path class="frame" d="M{start:.1f} {top + _HEAD - 4:.1f}v{bottom - _HEAD}"/>')
    return parts, float(bottom)


def _bar(seconds: dict[str, Any], ours: bool, across: Any, y: float) -> list[str]:
    """A bar to the median, a line from the quickest to the slowest, and the median in figures."""
    zero, median = across(0), across(seconds["median"])
    low, high = across(seconds["min"]), across(seconds["max"])
    name = "ours" if ours else "theirs"
    middle = y + _BAR / 2
    size = f'width="{median - zero:.1f}" height="{_BAR}"'
    return [
        f'<rect class="{name}" x="{zero:.1f}" y="{y:.1f}" {size}/>',
        f'<path class="range" d="M{low:.1f} {middle:.1f}H{high:.1f}"/>',
        text(max(median, high) + 6, y + 11.5, f"{seconds['median']:.2f} s", "start", "value"),
    ]


def _short(failed: str) -> str:
    words = failed if len(failed) <= 36 else failed[:34] + " …"
    return escape(words)
