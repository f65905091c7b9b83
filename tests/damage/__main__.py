"""Plant damage, validate it, and print what was caught: see `--help`."""

import argparse
import json
import re
import resource
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

from tests.damage.grounds import GROUNDS, WORK, prepare
from tests.damage.judging import Outcome, judge
from tests.damage.planting import Plant
from tests.damage.plants import all_plants
from tests.damage.table import table


def main() -> int:
    """Run the command; return 0 whatever was caught, since the table is the result."""
    options = _options()
    plants = [plant for plant in all_plants() if _chosen(plant, options.only)]
    if options.list:
        for plant in plants:
            print(f"{plant.severity:<8}{plant.ground + '/' + plant.artifact:<20}{plant.name}")
        print(f"{len(plants)} plants")
        return 0
    if options.honest:
        from tests.damage.honest import run

        return run(options.only, options.json)
    _prepare(plants, everything=not options.only)
    if options.effects:
        from tests.damage.effects import print_effects

        print_effects(plants)
        return 0
    notes = _notes(options.only)
    outcomes = _noted(plants, notes) if options.resume else []
    notes.unlink(missing_ok=True)
    for outcome in outcomes:
        _tell(outcome, notes)
    tell = partial(_tell, notes=notes)
    known = {outcome.name for outcome in outcomes}
    outcomes += judge([plant for plant in plants if plant.name not in known], tell, options.jobs)
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"\n{table(outcomes)}\n\n{spent.ru_utime + spent.ru_stime:.0f} s of processor time")
    if options.json:
        rows = [outcome.as_row() for outcome in outcomes]
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


def _prepare(plants: list[Plant], *, everything: bool) -> None:
    """Make what all plants need, or only the artifacts of those that were chosen."""
    for name in sorted({plant.ground for plant in plants} | {"tiny", "english"}):
        ground = GROUNDS[name]
        damaged = {plant.artifact for plant in plants if plant.ground == name}
        print(f"preparing {name}", flush=True)
        prepare(ground, [t for t in ground.targets if everything or t in damaged])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.damage", description=__doc__)
    parser.add_argument(
        "--only", metavar="PATTERN", default="", help="plants whose ground/artifact/name matches"
    )
    parser.add_argument("--honest", action="store_true", help="honest builds instead of plants")
    parser.add_argument("--list", action="store_true", help="list the plants")
    parser.add_argument("--effects", action="store_true", help="measure what each plant changes")
    parser.add_argument("--resume", action="store_true", help="keep the outcomes of the last run")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="commands at a time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every outcome there too")
    return parser.parse_args()


def _chosen(plant: Plant, pattern: str) -> bool:
    return re.search(pattern, f"{plant.ground}/{plant.artifact}/{plant.name}") is not None


def _notes(pattern: str) -> Path:
    """Return the file with the outcomes of the plants of a pattern."""
    return WORK / f"outcomes{re.sub('[^a-z0-9]+', '-', pattern)}.jsonl"


def _noted(plants: list[Plant], notes: Path) -> list[Outcome]:
    """Read what the last run found of these plants before it was ended."""
    lines = notes.read_text(encoding="utf-8").splitlines() if notes.exists() else []
    rows = [json.loads(line) for line in lines]
    fields = Outcome.__dataclass_fields__
    found = [Outcome(**{key: row[key] for key in row if key in fields}) for row in rows]
    severities = {plant.name: plant.severity for plant in plants}
    return [
        replace(outcome, checks=tuple(outcome.checks), severity=severities[outcome.name])
        for outcome in found
        if outcome.name in severities
    ]


def _tell(outcome: Outcome, notes: Path) -> None:
    """Print an outcome as soon as it is known, and note it."""
    checks = ",".join(outcome.checks) or (f"exit {outcome.code}" if outcome.code else "")
    led = "led" if outcome.led else ""
    print(
        f"{outcome.verdict:<10}{outcome.severity:<8}{outcome.name:<38}{outcome.seconds:5.1f} s "
        f"{led:<4}{checks}",
        flush=True,
    )
    with notes.open("a", encoding="utf-8") as file:
        file.write(json.dumps(outcome.as_row()) + "\n")


if __name__ == "__main__":
    sys.exit(main())
