"""`exporter validate` in parts: what each option needs, what a part tells, and what comes next."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter import cli
from exporter.cli.output import shards
from exporter.validate.rounds import PartsHeard
from tests.support.golden import GOLDEN
from tests.support.recordings import write_clips

Validate = Callable[..., int]


@pytest.fixture
def validate(tmp_path: Path, tiny_whisper: Path, monkeypatch: pytest.MonkeyPatch) -> Validate:
    """Run the command on an artifact and seven clips, in the folder of both."""
    monkeypatch.setenv("EXPORTER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(GOLDEN / "v1-torch-int8", tmp_path / "one")
    write_clips(tmp_path / "clips", 7)

    def running(*options: str) -> int:
        known = ("--data", "clips", "--reference", str(tiny_whisper), "--threads", "1")
        return cli.main(["validate", "one", *known, *options])

    return running


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--part 0/3 --store s", "'0/3' is not I/N"),
        ("--part 4/3 --store s", "'4/3' is not I/N"),
        ("--part a/b --store s", "'a/b' is not I/N"),
        ("--part 1/3", "--part needs --store"),
        ("--part 1/3 --merge --store s", "give one of them"),
        ("--part 1/3 --store s --on ray", "leave --on out"),
        ("--part 1/3 --store s --report r", "--part writes no report"),
        ("--merge", "--merge needs --store"),
        ("--timing x", "'x' is not here, none or LABEL=VALUE"),
        ("--timing a=b", "names a node of Ray: give --on ray"),
        ("--workers 2 --on ray", "--workers is of this machine"),
        ("--on ray://x", "ray job submit -- exporter ... --on ray"),
        ("--on x", "'x' is no address of Ray"),
        ("--part 1/3 --store=", "not an empty text"),
        ("--part 1/3 --store ftp://x/y", "not ftp://"),
        ("--part 1/3 --store https://me:secret@x/y", "not https://"),
        ("--merge --store s3://", "s3://BUCKET/FOLDER"),
    ],
)
def test_wrong_options_are_refused_and_make_no_folder(
    validate: Validate,
    options: str,
    told: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    before = {*tmp_path.iterdir()}
    assert validate(*options.split()) == 2
    error = capfd.readouterr().err
    assert told in error
    assert "secret" not in error
    assert {*tmp_path.iterdir()} - {tmp_path / "cache"} == before


def test_a_store_that_is_a_file_is_told(
    validate: Validate, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s").write_text("text")
    assert validate("--store", "s", "--part", "1/1") == 2
    assert "s cannot be written (File exists): give another folder" in capfd.readouterr().err
    assert validate("--store", "s", "--merge") == 3
    assert "Give --store a folder" in capfd.readouterr().err


def test_from_a_plan_to_a_report(
    validate: Validate, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert validate("--dry-run", "--json") == 0
    (look,) = json.loads(capfd.readouterr().out)["looks"][0]
    assert (look["clips"], [model["done"] for model in look["models"]]) == (7, [0, 0])
    store, report = ("--store", "parts"), tmp_path / "one" / "report.json"
    before = report.read_bytes()
    assert validate(*store, "--part", "1/2") == 0
    assert capfd.readouterr().out == (
        "1 shard heard here; parts has 1 of 2 shards of all 7 clips.\n"
        "When the other parts have run, too: judge it with --merge in place of --part.\n"
    )
    assert validate(*store, "--merge") == 3
    assert "of all 7 clips, 1 of 2 shards are missing" in capfd.readouterr().err
    assert validate(*store, "--part", "2/2") == 0
    assert "Nothing is left to hear" in capfd.readouterr().out
    # A part that was damaged is named, does not count, and is heard again.
    victim = min((tmp_path / "parts").iterdir())
    whole = victim.read_bytes()
    victim.write_bytes(whole.replace(b"0", b"1"))
    assert validate(*store, "--merge") == 3
    error = capfd.readouterr().err
    assert f"{victim.name} is damaged, and does not count" in error
    assert "1 of 2 shards are missing" in error
    assert validate(*store, "--part", "1/1") == 0
    assert "1 shard heard here; parts has 2 of 2" in capfd.readouterr().out
    assert victim.read_bytes() == whole
    assert validate("--dry-run", "--merge", *store) == 0
    assert validate(*store, "--merge", "--report", "told") == 4  # seven clips prove nothing
    assert (tmp_path / "told" / "report.json").exists()
    assert report.read_bytes() == before


def test_a_look_that_is_not_all_clips_is_told() -> None:
    told = [*shards.told(PartsHeard(300, 1000, 2, 3, 9, certain=False), "s3://b/parts")]
    assert told[0] == (
        "2 shards heard here; s3://b/parts has 3 of 9 shards of the first 300 of 1,000 clips."
    )
