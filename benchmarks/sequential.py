"""Simulate the gate that looks at 300 clips, 1,000, 3,000 and so on, and stops when it is sure.

Artifacts are drawn that are as good as their original, worse by exactly the gate's margin, and by
twice as much; 6 % of the clips change. Speakers may be harmed unlike each other: log-normally, with
the standard deviation `spread` of the logarithm.

    python -m benchmarks.sequential --count 400
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import click
import numpy as np

from exporter.validate.scoring import statistics
from tests.support.simulated import Decided, Speakers, decided

DATA = (
    *(Speakers(10_000, 1, 0), Speakers(1_000, 10, 0.5), Speakers(1_000, 10, 1)),
    *(Speakers(100, 100, 0.5), Speakers(100, 100, 1), Speakers(100, 26, 0.5)),
    *(Speakers(100, 26, 1), Speakers(40, 65, 0.5), Speakers(40, 65, 1)),
)
FACTORS = {"equal": 0, "at the margin": 1, "twice the margin": 2}


@dataclass(frozen=True)
class Case:
    """Artifacts of one kind on data of one kind."""

    data: Speakers
    margin: float
    kind: str


def run(count: int, resamples: int, case: Case) -> list[Decided]:
    """Judge so many artifacts of a case."""
    statistics.RESAMPLES = resamples
    difference = FACTORS[case.kind] * case.margin
    return list(decided(case.data, case.margin, difference, count, seed=1_000_000))


def row(case: Case, found: list[Decided]) -> str:
    """Return a line of the table."""
    clips = np.array([each.clips for each in found])
    rates = [np.mean([each.passed is passed for each in found]) for passed in (True, False, None)]
    shares = " | ".join(f"{100 * rate:.1f} %" for rate in rates)
    heard = f"{np.median(clips):,.0f} ({clips.mean():,.0f})"
    return f"| {case.data} | {100 * case.margin:g} | {case.kind} | {heard} | {shares} |"


@click.command(help=__doc__)
@click.option("--count", default=400, show_default=True, help="Artifacts of each case.")
@click.option("--resamples", default=2_000, show_default=True, help="The gate itself: 10,000.")
@click.option("--margin", default=0.005, show_default=True, help="The gate's max_wer_increase.")
@click.option("--kind", "kinds", type=click.Choice([*FACTORS]), multiple=True)
@click.option("--processes", default=2, show_default=True)
def main(count: int, resamples: int, margin: float, kinds: tuple[str, ...], processes: int) -> None:
    """Print a table."""
    cases = [Case(data, margin, kind) for data in DATA for kind in kinds or FACTORS]
    click.echo(
        "| speakers x clips | margin | artifact | clips, median (mean) | passed | failed | - |"
    )
    click.echo("| --- | ---: | --- | ---: | ---: | ---: | ---: |")
    with ProcessPoolExecutor(processes) as pool:
        for case, found in zip(cases, pool.map(partial(run, count, resamples), cases), strict=True):
            click.echo(row(case, found))


if __name__ == "__main__":
    main()
