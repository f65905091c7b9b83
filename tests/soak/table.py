"""Writes the table of docs/reliability.md from what pytest recorded: `table.py RESULTS.xml ...`.

A test that proves a promise says so with pytest's `record_property`: `promise`, `cases`, and
`measured` where it has a figure. Only promises.yaml is typed by hand.
"""

import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

from ruamel.yaml import YAML

from exporter.system.files import write_atomic
from exporter.system.hardware import describe

PAGE = Path(__file__).resolve().parents[2] / "docs/reliability.md"
_WORDING = Path(__file__).with_name("promises.yaml")
_LINE = "<br>"
_BEGIN, _END = "<!-- results -->\n", "<!-- end of results -->\n"


@cache
def promises() -> dict[str, dict[str, str]]:
    """The wording of each promise, and of how it is tested."""
    known: dict[str, dict[str, str]] = YAML(typ="safe", pure=True).load(_WORDING)
    return known


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
            if promise not in promises():
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
        "| | promise, and how it is tested | cases | measured | tests | time |",
        "| --- | --- | ---: | --- | --- | ---: |",
    ]
    for promise, wording in promises().items():
        evidence = found.get(promise, Evidence())
        cases = "; ".join(_of(hub, f"{n:,}") for hub, n in sorted(evidence.cases.items()))
        measured = _LINE.join(dict.fromkeys(evidence.measured)) or "held every time"
        tests = _LINE.join(f"`{test}`" for test in sorted(evidence.tests))
        promised = f"**{wording['promise']}.**{_LINE}{wording['tested']}."
        cells = (promise, promised, cases or "none", measured, tests, f"{evidence.seconds:.0f} s")
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
