"""The page of a search: one file with the effect of every group, and the front of the plans."""

import math
from collections.abc import Callable
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from exporter.artifact.evidence import short
from exporter.system.progress import shown_bytes
from exporter.system.text import harmless
from exporter.tune.plots import latency_front, size_front
from exporter.tune.results import Figures, GroupRow

_TEMPLATE = "page.html.j2"
_LEAST = 1e-7  # nats: smaller effects have no bar


def render(figures: Figures, name: str, limit: float) -> str:
    """Return the page as one HTML document without external resources or scripts.

    Args:
        figures: What the search found.
        name: The name of the recipe that it wrote, or would have written.
        limit: The greatest increase of WER that passes the gate, a fraction.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=_harmless,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(_FILTERS)
    ranked = sorted(figures.groups, key=lambda group: -_divergence(group))
    return environment.get_template(_TEMPLATE).render(
        figures=figures,
        name=name,
        groups=ranked,
        shares=_shares(ranked),
        chosen=None if figures.chosen is None else figures.trials[figures.chosen],
        latency_plot=latency_front(figures.trials, figures.chosen, limit),
        size_plot=size_front(figures.trials, figures.chosen, limit),
    )


def _divergence(group: GroupRow) -> float:
    return group.effect.kl_mean if group.effect else 0.0


def _shares(groups: list[GroupRow]) -> dict[str, float]:
    """Return the length of each group's bar in percent: logarithmic, from the least effect."""
    logs = {g.name: math.log10(max(_divergence(g), _LEAST)) for g in groups if g.effect}
    if not logs:
        return {}
    low, high = min(logs.values()) - 0.3, max(logs.values())
    return {name: 100 * (value - low) / (high - low) for name, value in logs.items()}


def _harmless(value: object) -> object:
    return harmless(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _saved(value: float, goal: str) -> str:
    """Return what a group saves, with its unit; a cost has a sign."""
    if goal == "size":
        return shown_bytes(value) if value >= 0 else f"-{shown_bytes(-value)}"
    return f"{1000 * value:.2f} ms"


_FILTERS: dict[str, Callable[..., str]] = {
    "bytes": shown_bytes,
    "percent": lambda rate: f"{100 * rate:.2f} %",
    "share": lambda rate: f"{100 * rate:.1f} %",
    "points": lambda rate: f"{100 * rate:+.2f}",
    "saved": _saved,
    "short": short,
}
