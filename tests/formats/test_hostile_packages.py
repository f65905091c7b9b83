"""Packages that were made to do harm: whatever reads a zip, none of them is handed to it."""

from pathlib import Path

import pytest

from exporter.artifact import trust
from exporter.errors import IntegrityError
from exporter.formats import pt2
from tests.support.hostile import BYTES, MEMBERS, Member, ours, zipped
from tests.support.sealed import refusal, seal

pytestmark = pytest.mark.usefixtures("no_loader", "harmless")


@pytest.mark.parametrize("case", MEMBERS)
def test_packages_that_are_not_ours(case: str, tmp_path: Path) -> None:
    package = zipped(MEMBERS[case](ours()))
    told = refusal(seal(tmp_path / "aoti", files={"encoder.pt2": package}))
    assert "encoder.pt2 has " in told
    assert not list(tmp_path.rglob("canary"))


@pytest.mark.parametrize("case", BYTES)
def test_bytes_that_are_no_package(case: str, tmp_path: Path) -> None:
    told = refusal(seal(tmp_path / "aoti", files={"encoder.pt2": BYTES[case]}))
    assert "encoder.pt2 has " in told


def test_what_the_target_writes_is_let_through(tmp_path: Path) -> None:
    """Or all of the above would show nothing."""
    (tmp_path / "encoder.pt2").write_bytes(zipped(ours()))
    pt2.check(tmp_path / "encoder.pt2")
    trust.verify_and_authorize(seal(tmp_path / "aoti"), trust=True)


def test_libraries_that_earlier_releases_stored_are_let_through(tmp_path: Path) -> None:
    stored = [Member(each.name, each.content or each.data) for each in ours()]
    (tmp_path / "encoder.pt2").write_bytes(zipped(stored))
    pt2.check(tmp_path / "encoder.pt2")


def test_a_package_of_an_unsealed_folder_is_checked_too(tmp_path: Path) -> None:
    (tmp_path / "encoder.pt2").write_bytes(zipped(ours())[:-1])
    with pytest.raises(IntegrityError, match="nothing was opened"):
        pt2.check(tmp_path / "encoder.pt2")
