"""The table of docs/reliability.md is made of what tests recorded, and of nothing else."""

import re
from pathlib import Path

import pytest

from tests.soak.table import PAGE, gather, promises, table

_CASE = """<testcase classname="tests.hub.test_push" name="{name}" time="1.5">
<properties>{properties}</properties>{outcome}</testcase>"""


def _results(path: Path, *cases: str) -> Path:
    path.write_text(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>")
    return path


def _case(name: str = "test_one", outcome: str = "", **properties: str) -> str:
    told = "".join(f'<property name="{k}" value="{v}"/>' for k, v in properties.items())
    return _CASE.format(name=name, properties=told, outcome=outcome)


def test_cases_are_summed_by_promise_and_by_release_of_the_hub_library(tmp_path: Path) -> None:
    one = _results(
        tmp_path / "one.xml",
        _case(promise="P9", cases="400", measured="12 requests"),
        _case("test_two", promise="P9", cases="62"),
    )
    two = _results(tmp_path / "two.xml", _case(promise="P9", cases="469", hub="2.4.0"))
    (row,) = [row for row in table(gather([one, two])).splitlines() if row.startswith("| P9 ")]
    assert "| 462; 469 (hub 2.4.0) | 12 requests | `tests/hub/test_push.py` |" in row.replace(
        "  ", " "
    )


@pytest.mark.parametrize("outcome", ["<failure/>", "<error/>", "<skipped/>"])
def test_nothing_is_told_unless_everything_passed(tmp_path: Path, outcome: str) -> None:
    results = _results(tmp_path / "one.xml", _case(), _case("test_bad", outcome))
    with pytest.raises(SystemExit, match="test_bad did not pass"):
        gather([results])


def test_the_page_tells_of_each_promise_what_was_seen() -> None:
    page = PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\S[^|]*?) \| [^|]+ \| (\d[^|]*) \|", page, flags=re.M)
    assert [promise for promise, _ in rows] == list(promises())
