"""What is kept between builds: found again, never believed when damaged, never in the way."""

import json
import logging
from pathlib import Path

import pytest

from exporter.cli import main
from exporter.system import build_cache, user_dirs


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EXPORTER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Work:
    """Something that takes long, counted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.times = 0

    def make(self) -> None:
        self.times += 1
        self.path.write_bytes(b"made")

    def get_or_build(self, fresh: bool = False, **parts: int) -> None:
        self.path.unlink(missing_ok=True)
        build_cache.get_or_build(self.path, "a graph", parts, self.make, fresh=fresh)
        assert self.path.read_bytes() == b"made"


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path / "graph.onnx")


def test_the_same_parts_are_made_once(work: Work) -> None:
    work.get_or_build(a=1)
    work.get_or_build(a=1)
    assert work.times == 1
    work.get_or_build(a=2)
    assert work.times == 2


def test_fresh_is_made_again_and_kept(work: Work) -> None:
    work.get_or_build(a=1)
    work.get_or_build(a=1, fresh=True)
    work.get_or_build(a=1)
    assert work.times == 2


def test_another_version_of_this_code_makes_its_own(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.get_or_build(a=1)
    monkeypatch.setattr(build_cache, "_code", lambda: "another")
    work.get_or_build(a=1)
    assert work.times == 2


@pytest.mark.parametrize("harm", ["bytes", "note", "list", "half", "link"])
def test_a_damaged_entry_is_made_again(work: Work, place: Path, harm: str) -> None:
    work.get_or_build(a=1)
    (kept,) = (entry.path for entry in build_cache.entries())
    if harm == "bytes":
        kept.write_bytes(b"mode")
    elif harm == "note":
        kept.with_suffix(".json").write_text("{")
    elif harm == "list":
        kept.with_suffix(".json").write_text("[]")
    elif harm == "half":
        kept.with_suffix(".json").unlink()
    else:
        kept.rename(place / "elsewhere")
        kept.symlink_to(place / "elsewhere")
    work.get_or_build(a=1)
    assert work.times == 2
    work.get_or_build(a=1)
    assert work.times == 2


def test_what_is_kept_is_told_and_cleared(work: Work, place: Path) -> None:
    assert build_cache.entries() == []
    assert build_cache.clear() == 0
    work.get_or_build(a=1)
    work.get_or_build(a=2)
    told = build_cache.entries()
    assert [(entry.what, entry.size_bytes) for entry in told] == [("a graph", 4)] * 2
    (place / f".{told[0].path.name}.partial-{'0' * 32}").write_text("")
    stranger = place / "notes.txt"
    stranger.write_text("mine")
    assert build_cache.clear() == 8
    assert list(place.iterdir()) == [stranger]


def test_a_place_that_cannot_be_written_costs_only_time(
    work: Work, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place.write_text("a file, not a folder")
    with caplog.at_level(logging.WARNING):
        work.get_or_build(a=1)
    work.get_or_build(a=1)
    assert work.times == 2
    assert "nothing was kept" in caplog.text


def test_the_folder_is_the_owners_alone(work: Work, place: Path) -> None:
    work.get_or_build(a=1)
    assert place.stat().st_mode & 0o077 == 0


def test_notes_name_no_folder(work: Work, place: Path) -> None:
    work.get_or_build(a=1)
    (note,) = place.glob("*.json")
    assert json.loads(note.read_text()).keys() == {"what", "sha256", "made"}


def test_the_command_lists_and_clears(work: Work, capfd: pytest.CaptureFixture[str]) -> None:
    work.get_or_build(a=1)
    assert main(["cache"]) == 0
    place, entry = capfd.readouterr().out.splitlines()
    assert place.endswith("cache: 4 B")
    assert entry.endswith("4 B  a graph")
    assert main(["cache", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert [row["what"] for row in told["entries"]] == ["a graph"]
    assert main(["cache", "--clear"]) == 0
    assert capfd.readouterr().out.endswith("cache: 4 B removed\n")
    assert build_cache.entries() == []


def test_a_folder_that_others_can_write_is_not_believed(
    work: Work, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    work.get_or_build(a=1)
    place.chmod(0o770)
    work.get_or_build(a=1)
    assert work.times == 2
    assert "chmod go-w" in caplog.text


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that is given a bare number for a user."""

    def no_home() -> Path:
        msg = "Could not determine home directory."
        raise RuntimeError(msg)

    monkeypatch.setattr(Path, "home", no_home)
    for name in ("EXPORTER_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert user_dirs.place() == Path("/.cache/exporter")
