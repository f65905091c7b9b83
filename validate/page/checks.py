"""The checks by the question that they answer, for the page's strip and docs/validation.md."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from exporter.artifact.report import Check

State = Literal["passed", "failed", "undecided", "not there"]

QUESTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Does it cost words?", ("wer", "texts", "clips", "readable", "true texts", "original")),
    (
        "Is it what the recipe says?",
        (
            *("files", "reference", "plan", "companions", "weights", "ranges", "features"),
            "faithful",
        ),
    ),
    (
        "Does it behave on inputs that nobody recorded?",
        (
            *("inputs", "positions", "repeat", "prompts", "batches", "beams", "graphs"),
            *("shapes", "finite"),
        ),
    ),
    ("Does it cost time or memory?", ("latency", "lengths", "call times", "memory")),
)
_OTHERS = "Other checks"


@dataclass(frozen=True)
class Cell:
    """One check in the strip; `sentence` is empty where the report has no such check."""

    name: str
    state: State
    sentence: str = ""


@dataclass(frozen=True)
class Group:
    """The checks that answer one question."""

    question: str
    cells: tuple[Cell, ...]


def state(check: Check) -> State:
    """Return a check's outcome as a word."""
    if check.passed is None:
        return "undecided"
    return "passed" if check.passed else "failed"


def strip(checks: Sequence[Check]) -> list[Group]:
    """Group a report's checks by their questions; those that it lacks are "not there".

    A report lacks a check if an older version wrote it, or if the check is not for its model.
    """
    found = {check.name: check for check in checks}
    known = {name for _, names in QUESTIONS for name in names}
    groups = [Group(question, _cells(names, found)) for question, names in QUESTIONS]
    others = _cells((name for name in found if name not in known), found)
    return [*groups, Group(_OTHERS, others)] if others else groups


def _cells(names: Iterable[str], found: dict[str, Check]) -> tuple[Cell, ...]:
    return tuple(
        Cell(name, state(found[name]), found[name].sentence)
        if name in found
        else Cell(name, "not there")
        for name in names
    )


def open_checks(checks: Sequence[Check]) -> list[Check]:
    """Return what did not pass: failed checks first, then undecided ones."""
    failed = [check for check in checks if check.passed is False]
    return failed + [check for check in checks if check.passed is None]


def counted(checks: Sequence[Check]) -> str:
    """Say how many checks failed and how many are undecided: "2 of 19 checks failed"."""
    failed = sum(check.passed is False for check in checks)
    undecided = sum(check.passed is None for check in checks)
    told = []
    if failed:
        told.append(f"{failed} of {len(checks)} checks failed")
    if undecided:
        of = "" if failed else f" of {len(checks)} checks"
        told.append(f"{undecided}{of} {'are' if undecided > 1 else 'is'} undecided")
    return ", ".join(told)
