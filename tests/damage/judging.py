"""Judge artifacts with `exporter validate`, several in one run, whatever happens to it."""

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from exporter.artifact.report import PAGE, PREDICTIONS, REPORT
from tests.damage import command
from tests.damage.grounds import GROUNDS, WORK
from tests.damage.planting import Plant, plant

Verdict = Literal["failed", "refused", "undecided", "passed", "bug", "hang"]
CAUGHT: tuple[Verdict, ...] = ("failed", "refused")
_AT_ONCE = 8
# The most that a run may take: for its original, and for each of its artifacts.
_START_S, _EACH_S = 240, 120
# Checks of what an artifact is judged on, which leave the verdict undecided.
_GROUNDS = {"clips", "true texts", "original", "reference"}
_USER_ERRORS = (2, 3, 5, 6, 8)


@dataclass(frozen=True)
class Outcome:
    """What became of one artifact: `message` is what its user is told, `led` if it names the cause.

    Verdicts of the report are failed, undecided and passed. Without a report the command refused
    the artifact with a sentence, or ended in a bug, or hung.
    """

    name: str
    verdict: Verdict
    checks: tuple[str, ...] = ()
    message: str = ""
    code: int = 0
    seconds: float = 0.0
    led: bool = False
    severity: str = ""
    target: str = ""
    ground: str = ""
    told: bool = False

    @property
    def caught(self) -> bool:
        """True if the artifact failed, was refused with a sentence, or cannot be judged so.

        Damage in the corpus or the original is no fault of an artifact's: there, undecided by the
        check of the corpus or the original is the right answer, and `told` is True.
        """
        return self.verdict in CAUGHT or self.told

    def as_row(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {**asdict(self), "caught": self.caught}


def judge(
    plants: Sequence[Plant], told: Callable[[Outcome], object], jobs: int = 1
) -> list[Outcome]:
    """Plant, validate and read the verdict of each; `told` gets every outcome at once.

    Args:
        plants: The plants.
        told: Called with each outcome.
        jobs: How many commands run at the same time.
    """
    outcomes: list[Outcome] = []
    with ThreadPoolExecutor(jobs) as pool:
        for found in pool.map(_judged, _runs(plants)):
            for outcome in found:
                told(outcome)
            outcomes += found
    return outcomes


def _judged(run: Sequence[Plant]) -> list[Outcome]:
    """Judge plants in one command, and remove their copies."""
    folders = [planted(each) for each in run]
    results = validate(folders, _options(run[0]))
    for folder in folders:
        shutil.rmtree(folder)
    return [of_plant(results[folder], each) for each, folder in zip(run, folders, strict=True)]


def planted(one: Plant, place: str = "planted") -> Path:
    """Make the damaged copy of a plant in a folder of the work folder, and return it."""
    original = GROUNDS[one.ground].artifact(one.artifact)
    return plant(original, WORK / place / one.name, one)


def validate(folders: Sequence[Path], options: Sequence[str] = ()) -> dict[Path, Outcome]:
    """Validate artifacts of one original and corpus; return what became of each.

    An artifact that stops the command is left out of the next one; if the command does not tell
    which one it is, halves of them are tried.
    """
    for folder in folders:
        for name in (REPORT, PAGE, PREDICTIONS):
            (folder / name).unlink(missing_ok=True)
    return {outcome[0]: outcome[1] for outcome in _told_apart(list(folders), options)}


def _told_apart(folders: list[Path], options: Sequence[str]) -> Iterator[tuple[Path, Outcome]]:
    start = time.monotonic()
    code, error = _command(folders, options)
    seconds = (time.monotonic() - start) / len(folders)
    rest = [folder for folder in folders if not (folder / REPORT).exists()]
    yield from ((f, of_report(f, seconds)) for f in folders if f not in rest)
    guilty = rest if len(rest) == 1 else [f for f in rest if _names(error, f)][:1]
    if guilty:
        yield guilty[0], _of_error(guilty[0], code, error, seconds)
        rest.remove(guilty[0])
    half = len(rest) // 2 if len(rest) == len(folders) else len(rest)
    for part in (rest[:half], rest[half:]):
        if part:
            yield from _told_apart(part, options)


def _runs(plants: Sequence[Plant]) -> Iterator[list[Plant]]:
    """Group plants of one original and one corpus; those with another of either stay alone."""
    shared: dict[str, list[Plant]] = {}
    for each in plants:
        if each.data or each.reference:
            yield [each]
            continue
        run = shared.setdefault(each.ground, [])
        run.append(each)
        if len(run) == _AT_ONCE:
            yield shared.pop(each.ground)
    yield from shared.values()


def _options(one: Plant) -> list[str]:
    """Return the options for a plant in the corpus or in place of the original."""
    options = ["--reference", str(WORK / one.reference)] if one.reference else []
    if one.data is not None:
        folder = WORK / "corpora" / one.name
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(GROUNDS[one.ground].clips, folder)
        one.data(folder)
        options += ["--data", str(folder)]
    return options


def _names(said: str, folder: Path) -> bool:
    return re.search(rf"/{re.escape(folder.name)}(?![\w-])", said) is not None


def _command(folders: Sequence[Path], options: Sequence[str]) -> tuple[int | None, str]:
    """Validate as a user does; return the exit code, None if it hung, and the error."""
    arguments = ["validate", *map(str, folders), "--trust", "--threads", "1", *options]
    code, said = command.run(arguments, _START_S + _EACH_S * len(folders))
    return code, command.error_in(said)


def of_report(folder: Path, seconds: float) -> Outcome:
    """Read the verdict; the message is that of the checks that decided it."""
    report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    passed = {"failed": False, "undecided": None, "passed": "no check"}[report["verdict"]]
    decisive = [check for check in report["checks"] if check["passed"] == passed]
    sentences = [f"[{c['name']}] {c['sentence']} {c.get('advice', '')}" for c in decisive]
    names = tuple(dict.fromkeys(check["name"] for check in decisive))
    return Outcome(folder.name, report["verdict"], names, " ".join(sentences), 0, seconds)


def _of_error(folder: Path, code: int | None, error: str, seconds: float) -> Outcome:
    """Read what the command said of an artifact that has no report."""
    refused: Verdict = "refused" if code in _USER_ERRORS else "bug"
    return Outcome(folder.name, "hang" if code is None else refused, (), error, code or 0, seconds)


def of_plant(outcome: Outcome, one: Plant) -> Outcome:
    """Complete an outcome with its plant; the folder's name, which leads anywhere, is left out."""
    said = re.sub(rf"(?<=/){re.escape(one.name)}(?=[/:\s]|$)", "", outcome.message).lower()
    led = outcome.verdict != "passed" and any(word.lower() in said for word in one.cause)
    elsewhere = one.data is not None or one.reference
    told = bool(elsewhere and outcome.verdict == "undecided" and _GROUNDS & {*outcome.checks})
    return replace(
        outcome, severity=one.severity, target=one.target, ground=one.ground, led=led, told=told
    )
