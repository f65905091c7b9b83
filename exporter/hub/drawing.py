"""Draw pictures as SVG for light and dark pages.

The SVG is written directly, because thirty lines do not justify a plotting library. The module is
in this package because the model card shows the same picture as the validator's HTML report.
"""

import math
from collections.abc import Callable, Iterator

from markupsafe import Markup

from exporter.artifact.report import Interval

WIDTH = 480
# The style of a separate file: as an image, it does not inherit the colours of the page.
_STYLE = (
    "<style>text{font:13px system-ui,sans-serif;fill:#5b6670}.bad{fill:#b3261e;opacity:.12}"
    ".axis,.zero{stroke:#9aa5af}.zero{stroke-dasharray:3 3}.gate{stroke:#b3261e;stroke-width:2}"
    ".range{stroke:#2459a8;stroke-width:3}.value{fill:#2459a8}"
    "@media(prefers-color-scheme:dark){text{fill:#9aa5af}.gate{stroke:#ff9d94}"
    ".range{stroke:#8ab4f8}.value{fill:#8ab4f8}}</style>"
)


def interval_svg(difference: Interval, limit: float) -> Markup:
    """Draw the WER difference and its interval beside zero and the gate's limit.

    Args:
        difference: WER of the artifact minus WER of the reference, as a fraction.
        limit: The largest increase that passes the gate, as a fraction.

    Returns:
        An `<svg>` element; its axis is in percentage points.
    """
    ends = (0.0, 100 * limit, 100 * difference.low, 100 * difference.high)
    margin = 0.12 * (max(ends) - min(ends) or 1.0)
    low, high = min(ends) - margin, max(ends) + margin
    across = scale(low, high, 16, WIDTH - 16)
    gate, left, right = (across(100 * v) for v in (limit, difference.low, difference.high))
    middle = across(100 * difference.value)
    parts = [
        f'<rect class="bad" x="{gate:.1f}" y="22" width="{WIDTH - 16 - gate:.1f}" height="58"/>',
        f'<line class="axis" x1="16" y1="80" x2="{WIDTH - 16}" y2="80"/>',
    ]
    for tick in ticks(low, high):
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
        text(WIDTH / 2, 122, "change of the word error rate, percentage points"),
    ]
    title = f"WER difference with its {100 * difference.level:.4g} % interval and the gate"
    return svg(128, title, parts)


def standalone(picture: Markup) -> str:
    """Return a picture as the text of an SVG file."""
    opened, _, rest = str(picture).partition(">")
    size = f'xmlns="http://www.w3.org/2000/svg" width="{WIDTH}"'
    return f"{opened} {size}>{_STYLE}{rest}\n"


def scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Return a function that maps [low, high] linearly to [start, end]."""
    return lambda value: start + (value - low) / (high - low) * (end - start)


def ticks(low: float, high: float) -> Iterator[float]:
    """Yield four to eight round numbers between two ends."""
    rough = (high - low) / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(nice * power for nice in (1, 2, 5, 10) if nice * power >= rough)
    for index in range(math.ceil(low / step), math.floor(high / step) + 1):
        yield round(index * step, 10)


def text(x: float, y: float, words: str, anchor: str = "middle", name: str = "label") -> str:
    """Return a text element at a position; `anchor` is the SVG text-anchor."""
    return f'<text class="{name}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{words}</text>'


def svg(height: int, label: str, parts: list[str]) -> Markup:
    """Return an `<svg>` element; `label` is its description for screen readers."""
    head = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">'
    return Markup(
        head + "".join(parts) + "</svg>"
    )  # safe, because it has only numbers and fixed words
