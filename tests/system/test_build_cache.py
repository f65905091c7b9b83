"""What is kept between builds: found again, never believed when damaged, never in the way."""

import json
import logging
import shutil
from pathlib import Path

import pytest

from exporter.cli import main
from exporter.system import build_cache, user_dirs

ROOT = Path(build_cache.__file__).parents[2]
FAMILY = "exporter.families.whisper.family"
SCHEME = "exporter.quantization.schemes.dynamic_int8"
MAKERS = {"aoti": "exporter.targets.aoti.graph_builder", "onnx": "exporter.targets.onnx.target"}


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
        build_cache.get_or_build(
            self.path, "a graph", parts, self.make, makers=(build_cache, self), fresh=fresh
        )
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


def test_other_sources_make_their_own(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    work.get_or_build(a=1)
    monkeypatch.setattr(build_cache, "sources_sha256", lambda _sources: "another")
    work.get_or_build(a=1)
    assert work.times == 2


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the package, to edit."""
    root = tmp_path_factory.mktemp("sources")
    shutil.copytree(
        ROOT / "exporter", root / "exporter", ignore=shutil.ignore_patterns("__pycache__")
    )
    return root


@pytest.fixture(scope="module")
def unedited() -> dict[str, str]:
    return keys(ROOT)


def keys(root: Path) -> dict[str, str]:
    digest = build_cache.sources_sha256.__wrapped__
    return {
        name: digest(frozenset({maker, FAMILY, SCHEME}), root) for name, maker in MAKERS.items()
    }


@pytest.mark.parametrize(
    ("edited", "changed"),
    [
        ("hub/model_card.py", set()),
        ("hub/client.py", set()),
        ("cli/build.py", set()),
        ("build/pipeline.py", set()),
        ("system/build_cache.py", set()),
        ("families/__init__.py", set()),  # the registries: another member changes no graph
        ("targets/__init__.py", set()),
        ("quantization/int8.py", {"aoti", "onnx"}),
        ("families/attention.py", {"aoti", "onnx"}),
        ("families/whisper/graphs/layers.py", {"aoti", "onnx"}),
        ("formats/tensor_io.py", {"aoti", "onnx"}),
        ("targets/aoti/compiler.py", {"aoti"}),
        ("targets/aoti/kernels/linear.cpp", {"aoti"}),
        ("targets/aoti/kernels/linear.h", {"aoti"}),
        ("targets/onnx/graphs/passes.py", {"onnx"}),
    ],
)
def test_a_graph_is_made_anew_for_the_sources_that_make_it_alone(
    copy: Path, unedited: dict[str, str], edited: str, changed: set[str]
) -> None:
    path = copy / "exporter" / edited
    source = path.read_bytes()
    path.write_bytes(source + b"\n")
    after = keys(copy)
    path.write_bytes(source)
    assert {name for name in MAKERS if unedited[name] != after[name]} == changed


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
