"""Writes the table of docs/reliability.md from what pytest recorded: `table.py RESULTS.xml ...`.

A test that proves a promise says so with pytest's `record_property`: `promise`, `cases`, and
`measured` where it has a figure. Nothing of the table is typed by hand but the promises' wording.
"""

import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from exporter.durable import write_atomic
from exporter.machine import describe

PAGE = Path(__file__).resolve().parent.parent / "docs/reliability.md"
_BEGIN, _END = "<!-- results -->\n", "<!-- end of results -->\n"
PROMISES = {
    "P1": "Killed at any moment, a build leaves no half artifact; run again, it finishes alike",
    "P2": "An artifact's files are on the disk before its name is, and its name before it is told",
    "P3": "A full or failing disk ends in one error line, and nothing half-written",
    "P4": "Builds of one target at once: one artifact, whole",
    "P5": "A corrupted checkpoint is refused, by file and tensor",
    "P6": "A tampered artifact is refused before a loader is imported",
    "P7": "Hostile files run nothing, connect to nothing, and do not fill memory",
    "P8": "The same recipe gives the same bytes",
    "P9": "A push cut anywhere leaves the old commit or the new one; again, it ends with one",
    "P10": "One passing fault does not fail a push or a pull",
    "P11": "A silent Hub cannot hold us for ever",
    "P12": "The token goes to the Hub and nowhere else",
    "P13": "Without a passing report of just these bytes, no request is made",
    "P14": "A local build and its validation need no network",
    "P15": "A download that differs from what was sealed is found out",
    "P16": "Artifacts of every released format load",
    "P17": "A wrong recipe gets its file, line and column",
    "P18": "The gate seldom passes what is worse than the limit",
    "P19": "Latency compared with itself is no failure",
    "P20": "Memory stays within what is promised",
    "P21": "Ctrl-C and SIGTERM end everything that was started, with their exit codes",
    "P22": "Odd environments change nothing",
    "transformers.js": "What is laid out for it speaks in Node as it does here",
    "init --github": "The workflow's own lines build, judge and push, or do not",
}


@dataclass
class Evidence:
    """What all tests of one promise came to; `cases` by the release of huggingface_hub."""

    cases: Counter[str] = field(default_factory=Counter)
    tests: set[str] = field(default_factory=set)
    measured: list[str] = field(default_factory=list)
    seconds: float = 0.0


def gather(files: Iterable[Path]) -> dict[str, Evidence]:
    """Sum up the tests of each promise. Raises SystemExit if one of all the tests did not pass."""
    found: dict[str, Evidence] = defaultdict(Evidence)
    for case in (case for file in files for case in ElementTree.parse(file).iter("testcase")):
        if any(case.find(kind) is not None for kind in ("failure", "error", "skipped")):
            msg = f"error: {case.get('classname')}::{case.get('name')} did not pass"
            raise SystemExit(msg)
        told = [(p.get("name"), p.get("value", "")) for p in case.iter("property")]
        hub = dict(told).get("hub", "")
        for promise in (value for name, value in told if name == "promise"):
            if promise not in PROMISES:
                msg = f"error: {case.get('name')} speaks of {promise}, which nobody promised"
                raise SystemExit(msg)
            evidence = found[promise]
            evidence.cases[hub] += sum(int(v) for n, v in told if n == "cases")
            evidence.tests.add(_place(case))
            evidence.measured += [v for n, v in told if n == "measured"]
            evidence.seconds += float(case.get("time", 0))
    return found


def _place(case: ElementTree.Element) -> str:
    return case.get("classname", "").replace(".", "/") + ".py"


def _of(hub: str, text: str) -> str:
    return f"{text} (hub {hub})" if hub else text


def table(found: dict[str, Evidence]) -> str:
    """The table in Markdown, every promise in it, also one that nothing proves."""
    rows = [
        "| | promise | cases | measured | tests | time |",
        "| --- | --- | ---: | --- | --- | ---: |",
    ]
    for promise, wording in PROMISES.items():
        evidence = found.get(promise, Evidence())
        cases = "; ".join(_of(hub, f"{n:,}") for hub, n in sorted(evidence.cases.items()))
        measured = "; ".join(dict.fromkeys(evidence.measured))
        tests = ", ".join(f"`{test}`" for test in sorted(evidence.tests))
        cells = (promise, wording, cases or "none", measured, tests, f"{evidence.seconds:.0f} s")
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def main(arguments: Sequence[str]) -> None:
    """Put the table into the page, between its two marks."""
    machine = describe()
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(_BEGIN)
    _, after = rest.split(_END)
    told = f"Measured on {machine.cpu}, {machine.cores} cores.\n\n"
    new = before + _BEGIN + told + table(gather(map(Path, arguments))) + _END + after
    write_atomic(PAGE, new.encode())


if __name__ == "__main__":
    main(sys.argv[1:])
