"""The tables of a run: what was caught, by severity and by target, and what was not."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from tests.damage.judging import Outcome
from tests.damage.planting import SEVERITIES

_WIDTH = 150


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the tables as text."""
    blocks = [
        _counts("severity", outcomes, lambda o: o.severity, SEVERITIES),
        _counts("target", outcomes, lambda o: o.target, sorted({o.target for o in outcomes})),
        _counts("data", outcomes, lambda o: o.ground, sorted({o.ground for o in outcomes})),
        _checks(outcomes),
        _list("Not caught", (o for o in outcomes if not o.caught)),
        _list(
            "Caught, and the message does not lead to the cause",
            (o for o in outcomes if o.caught and not o.led),
        ),
    ]
    return "\n\n".join(block for block in blocks if block)


def _counts(
    title: str,
    outcomes: Sequence[Outcome],
    of: Callable[[Outcome], str],
    values: Sequence[str],
) -> str:
    lines = [
        f"{title:<12}{'plants':>8}{'caught':>8}{'undecided':>11}{'passed':>8}{'bug':>6}{'hang':>6}"
        f"{'caught':>9}{'message':>9}"
    ]
    for value in (*values, "all"):
        own = [o for o in outcomes if value in ("all", of(o))]
        if own:
            lines.append(_row(value, own))
    return "\n".join(lines)


def _row(value: str, own: Sequence[Outcome]) -> str:
    caught = [o for o in own if o.caught]
    number = Counter(o.verdict for o in own)
    led = sum(o.led for o in caught)
    share = f"{led / len(caught):.0%}" if caught else "-"
    return (
        f"{value:<12}{len(own):>8}{len(caught):>8}{number['undecided']:>11}{number['passed']:>8}"
        f"{number['bug']:>6}{number['hang']:>6}{len(caught) / len(own):>9.0%}{share:>9}"
    )


def _checks(outcomes: Sequence[Outcome]) -> str:
    """Which checks failed, and how often alone."""
    every: Counter[str] = Counter()
    alone: Counter[str] = Counter()
    for outcome in outcomes:
        if outcome.caught:
            names = outcome.checks or (f"exit {outcome.code}",)
            every.update(set(names))
            alone.update(names if len(set(names)) == 1 else ())
    lines = [f"{'check':<22}{'failed':>8}{'alone':>8}"]
    lines += [f"{name:<22}{count:>8}{alone[name]:>8}" for name, count in every.most_common()]
    return "\n".join(lines)


def _list(title: str, outcomes: Iterable[Outcome]) -> str:
    lines = [
        f"  {o.severity:<8}{o.verdict:<11}{o.target:<11}{o.ground:<8}{o.name:<36}"
        f"{' '.join(o.message.split())[:_WIDTH]}"
        for o in sorted(outcomes, key=lambda o: (SEVERITIES.index(o.severity), o.name))  # type: ignore[arg-type]
    ]
    return "\n".join([f"{title}: {len(lines)}", *lines]) if lines else ""
