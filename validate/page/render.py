"""report.html: one file that shows the verdict, the numbers and every transcript that changed.

Separate from the judging so that the page can be drawn again from a report and its predictions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from exporter.artifact.evidence import short
from exporter.artifact.report import Report
from exporter.hub.drawing import interval_svg
from exporter.system.progress import shown_bytes
from exporter.system.text import harmless
from exporter.validate.gate.judge import most_changed, percent, points, span, worst_places
from exporter.validate.page.checks import counted, open_checks, state, strip
from exporter.validate.page.plots import latency_svg, steps_svg
from exporter.validate.scoring.compare import Comparison
from exporter.validate.scoring.wer import Column, align

MOST_CLIPS = 100
_TEMPLATE = "report.html.j2"


@dataclass(frozen=True)
class Card:
    """One clip's transcripts, aligned with the true words."""

    id: str
    duration_s: float
    errors_reference: int
    errors: int
    columns: list[Column]


def render(report: Report, case: Comparison) -> str:
    """Return the page as one HTML document without external resources or scripts."""
    changed = most_changed(case)
    same = set(worst_places(case)) - set(changed)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=_harmless,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    return environment.get_template(_TEMPLATE).render(
        report=report,
        title=f"{report.artifact.recipe} / {report.artifact.name}",
        groups=strip(report.checks),
        open_checks=open_checks(report.checks),
        counted=counted(report.checks),
        steps_plot=steps_svg(report.faithfulness) if report.faithfulness else None,
        changed=[_card(case, place) for place in changed[:MOST_CLIPS]],
        same=[_card(case, place) for place in worst_places(case) if place in same],
        wer_plot=interval_svg(report.wer_difference, report.gate.max_wer_increase),
        latency_plot=latency_svg(
            case.reference.seconds, case.candidate.seconds, report.gate.max_latency_ratio
        ),
        most=MOST_CLIPS,
    )


def _harmless(value: object) -> object:
    """Return text without what could reorder or hide the text around it; markup stays."""
    return harmless(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _card(case: Comparison, place: int) -> Card:
    texts = case.texts(place)
    return Card(
        id=texts.id,
        duration_s=texts.duration_s,
        errors_reference=int(case.reference.scores.errors[place]),
        errors=int(case.candidate.scores.errors[place]),
        columns=align(texts.truth, texts.reference, texts.candidate),
    )


def _kind(word: str | None, truth: str | None) -> str:
    """Classify a word against the truth; named so that colour is not the only indication."""
    if word == truth:
        return "hit"
    if word is None:
        return "deletion"
    return "insertion" if truth is None else "substitution"


def _percent(rate: float | None) -> str:
    return "-" if rate is None else f"{100 * rate:.2f} %"


def _seconds(value: float) -> str:
    return f"{1000 * value:.0f} ms" if value < 1 else f"{value:.2f} s"


def _duration(value: float) -> str:
    return f"{value:.1f} s" if value < 120 else f"{value / 60:.1f} min"


def _rtf(value: float) -> str:
    return f"{value:.3f}" if value >= 0.01 else f"{value:.2g}"


def _times(value: float) -> str:
    return f"{value:.2f}" if value < 100 else short(value)


def _change(candidate: float, reference: float) -> str:
    """Describe a relative change in words instead of a sign."""
    return f"{candidate / reference:.2f} \u00d7" if reference else "-"


FILTERS: dict[str, Callable[..., str]] = {
    "percent": _percent,
    "seconds": _seconds,
    "duration": _duration,
    "bytes": shown_bytes,
    "points": points,
    "confidence": percent,
    "span": span,
    "rtf": _rtf,
    "kind": _kind,
    "short": short,
    "state": state,
    "times": _times,
    "change": _change,
}
