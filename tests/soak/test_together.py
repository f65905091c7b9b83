"""Several processes at one artifact, and at one cache."""

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.artifact import store
from exporter.artifact.report import read as read_report
from tests.support import sweeps
from tests.support.faults import Server, place, start
from tests.support.sweeps import Case

Record = Callable[[str, object], None]


@pytest.mark.parametrize("kind", ["torch-int8", "onnx-int8"])
def test_eight_builds_of_one_target(
    server: Server, kind: str, tmp_path_factory: pytest.TempPathFactory, record_property: Record
) -> None:
    where = place(tmp_path_factory.mktemp("one"), kind)
    cases = sum(sweeps.one_wins(server, where, 8) for _ in range(5))
    record_property("promise", "P4")
    record_property("cases", cases)
    record_property("measured", "one of eight built it, five times out of five")


def test_eight_real_builds_of_one_target(tmp_path: Path, record_property: Record) -> None:
    where = place(tmp_path)
    builds = [start(where, where.building) for _ in range(8)]
    said = [build.communicate()[1] for build in builds]
    codes = [build.returncode for build in builds]
    assert set(codes) <= {0, 9}, said
    assert codes.count(0) >= 1
    assert len(where.listed()) == 1
    assert where.left() == []
    record_property("promise", "P4")
    record_property("cases", 8)
    record_property("measured", f"{codes.count(0)} built or reused, {codes.count(9)} exited with 9")


@pytest.mark.parametrize("kind", ["torch-int8", "onnx-int8"])
def test_eight_builds_with_one_cache(
    server: Server, kind: str, tmp_path_factory: pytest.TempPathFactory, record_property: Record
) -> None:
    cases = sweeps.cache_is_shared(server, place(tmp_path_factory.mktemp("shared"), kind), 8)
    record_property("promise", "P4")
    record_property("cases", cases)


def test_replaced_while_it_is_judged(
    server: Server, tmp_path_factory: pytest.TempPathFactory, record_property: Record
) -> None:
    """`validate` ends with a report of what stands, or says that it was replaced."""
    case = Case(server, place(tmp_path_factory.mktemp("judged")), over=True)
    codes = []
    for late in range(1, 9):
        case.where.restore()
        with start(case.where, ["validate", str(case.where.final)]) as judging:
            time.sleep(1.5 * late)
            assert server.run(case.where, case.arguments).code == 0
            said = judging.communicate()[1]
        codes.append(judging.returncode)
        assert judging.returncode in (0, 4, 9), said
        assert judging.returncode != 9 or re.search("was replaced|is gone", said), said
        manifest = store.verify(case.where.final)
        report = case.where.final / "report.json"
        assert (
            not report.exists() or read_report(case.where.final).artifact.digest == manifest.digest
        )
        assert case.where.left() == []
    record_property("promise", "P4")
    record_property("cases", len(codes))
    record_property("measured", f"{codes.count(9)} exited with 9: replaced")
