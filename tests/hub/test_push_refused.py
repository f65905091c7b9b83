"""What must not be pushed is refused before the first request, and a token stays where it is."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exporter.artifact import local_paths, report, store
from exporter.artifact.local_paths import LocalPaths
from exporter.artifact.report import LookStamp
from exporter.artifact.store import read_manifest
from exporter.cli import main
from exporter.recipe import Decoding, Gate, read
from exporter.system.progress import silent
from exporter.validate.corpus.unchanged import Rereader
from tests.support import faulty, passing
from tests.support.hub import FAULTS, SIGNATURE, Hub, Request

Record = Callable[[str, object], None]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return passing.make(tmp_path / "artifacts" / "speech" / "onnx-int8")


def edited(name: str, old: str, new: str) -> Callable[[Path], Any]:
    def edit(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return edit


def judged(**changes: Any) -> Callable[[Path], Any]:
    return lambda folder: passing.judged(folder, **changes)


def sealed_anew(folder: Path) -> None:
    """Another recipe under the report of the first one."""
    report = (folder / "report.json").read_bytes()
    passing.make(folder, recipe=passing.RECIPE.replace("0.005", "0.5"))
    (folder / "report.json").write_bytes(report)


def verdict_edited(folder: Path) -> None:
    passing.judged(folder, verdict="failed")
    edited("report.json", "failed", "passed")(folder)


def data_of(folder: Path, **changes: Any) -> None:
    data = passing.judged(folder).data.model_copy(update=changes)
    passing.judged(folder, data=data)


def compared_with_another(folder: Path) -> None:
    reference = passing.judged(folder).reference.model_copy(update={"sha256": "9" * 64})
    passing.judged(folder, reference=reference)


REFUSED: dict[str, tuple[Callable[[Path], Any], int, str]] = {
    "no report": (lambda f: (f / "report.json").unlink(), 4, "was never validated"),
    "another build's report": (sealed_anew, 5, "its report is about another build"),
    "verdict edited": (
        lambda f: (
            passing.judged(f, verdict="failed"),
            edited("report.json", "failed", "passed")(f),
        ),
        5,
        "was edited, or written",
    ),
    "figure edited": (
        edited("report.json", '"wer": 0.04,', '"wer": 0.01,'),
        5,
        "was edited, or written",
    ),
    "report unreadable": (lambda f: (f / "report.json").write_text("{"), 5, "not a report"),
    "failed": (judged(verdict="failed"), 4, "did not pass its gate (failed)"),
    "undecided": (judged(verdict="undecided"), 4, "did not pass its gate (undecided)"),
    "another gate": (judged(gate=Gate(max_wer_increase=0.5)), 4, "by another gate than"),
    "another decoding": (judged(decoding=Decoding(num_beams=5)), 4, "with another decoding"),
    "fewer clips": (lambda f: data_of(f, max_clips=3), 4, "on other clips than"),
    "other clips": (lambda f: data_of(f, source="elsewhere"), 4, "on other clips than"),
    "another original": (
        compared_with_another,
        4,
        "whisper-small, sha256 999999999999)",
    ),
    "weights edited": (
        lambda f: (f / "encoder_model.onnx").write_bytes(b"\1" + bytes(4_999)),
        5,
        "not match the manifest",
    ),
    "manifest edited": (edited("manifest.json", "avx512_vnni", "avx2"), 5, "its report is about"),
    "a file added": (lambda f: (f / "more.onnx").write_bytes(b""), 5, "not in the manifest"),
    "a file gone": (lambda f: (f / "config.json").unlink(), 5, "missing"),
    "predictions edited": (
        edited("predictions.jsonl", '"a"', '"b"'),
        5,
        "predictions.jsonl does not",
    ),
    "page edited": (edited("report.html", "html", "htm"), 5, "report.html does not belong"),
    "page gone": (lambda f: (f / "report.html").unlink(), 5, "report.html does not belong"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_it_is_refused_without_a_request(
    loopback: Hub,
    folder: Path,
    why: str,
    capfd: pytest.CaptureFixture[str],
    record_property: Record,
) -> None:
    spoil, code, told = REFUSED[why]
    spoil(folder)
    assert main(["push", str(folder)]) == code
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert told in err
    assert len(err.splitlines()) <= 3
    assert not loopback.requests
    assert not (folder / "README.md").exists()
    record_property("promise", "P13")
    record_property("cases", 1)


def overwritten(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"\1")


def shortened(path: Path) -> None:
    os.truncate(path, 70_000)


LOCAL = passing.RECIPE.replace(
    "{dataset: openslr/librispeech_asr, config: clean, split: test, max_clips: 200}",
    "{clips: clips}",
)


def judged_on_clips(folder: Path) -> Path:
    """An artifact that was judged on clips beside its recipe; return their manifest."""
    clips = folder.parents[2] / "clips"
    clips.mkdir()
    for name in ("1.wav", "2.wav"):
        (clips / name).write_bytes(name.encode() * 100)
    rows = [{"audio": name, "text": f"text of {name}"} for name in ("1.wav", "2.wav")]
    (clips / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    passing.make(folder, recipe=LOCAL)
    places = LocalPaths(recipe=str(clips.parent / "recipe.yaml"), checkpoint="checkpoint")
    local_paths.write(folder, places)
    judged = report.read(folder)
    now = Rereader(silent)(folder, read_manifest(folder), read(folder / "recipe.yaml"), judged)
    data_of(folder, sha256=now)
    return clips / "manifest.jsonl"


def test_of_clips_that_were_heard_look_by_look_these_are_read_again(folder: Path) -> None:
    """The other ones decided nothing."""
    manifest = judged_on_clips(folder)
    looks = LookStamp(planned=(1, 2), made=1, level=0.975, seed=0)
    judged = passing.judged(folder)
    data = judged.data.model_copy(update={"clips": 1})
    judged = judged.model_copy(update={"looks": looks, "data": data})
    what = folder, read_manifest(folder), read(folder / "recipe.yaml"), judged
    whole, heard = judged.data.sha256, Rereader(silent)(*what)
    assert heard not in (None, whole, "unreadable")
    same = []
    for name in ("1.wav", "2.wav"):
        sound = (manifest.parent / name).read_bytes()
        (manifest.parent / name).write_bytes(b"other")
        same.append(Rereader(silent)(*what) == heard)
        (manifest.parent / name).write_bytes(sound)
    assert sorted(same) == [False, True]


def text_edited(manifest: Path) -> None:
    manifest.write_text(manifest.read_text().replace("text of 2", "another"))


def sound_edited(manifest: Path) -> None:
    (manifest.parent / "1.wav").write_bytes(b"other")


def sound_gone(manifest: Path) -> None:
    (manifest.parent / "1.wav").unlink()


@pytest.mark.parametrize("edit", [text_edited, sound_edited, sound_gone])
def test_clips_that_were_edited_after_the_verdict_are_told(
    edit: Callable[[Path], None], loopback: Hub, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    clips = judged_on_clips(folder)
    edit(clips)
    assert main(["push", str(folder)]) == 4
    error = capfd.readouterr().err
    assert "was judged on other clips than clips has now" in error
    assert f"Run `exporter validate {folder}` again" in error
    assert len(error.splitlines()) <= 3
    assert not loopback.requests


def test_the_same_clips_and_absent_ones_are_told(
    loopback: Hub, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    clips = judged_on_clips(folder)
    assert main(["push", str(folder)]) == 0
    assert "clips of clips read again: as judged" in capfd.readouterr().out
    repo = loopback.repos["org/speech"]
    assert b"the clips were read again and were those of the report" in repo.files["README.md"].data
    assert b"The report is unsigned" in repo.files["README.md"].data
    clips.parent.rename(clips.parent.with_name("elsewhere"))
    assert main(["push", str(folder), "--json"]) == 0
    (row,) = json.loads(capfd.readouterr().out)["pushed"]
    assert row["corpus_read_again"] is False
    assert b"the clips were not at hand" in repo.files["README.md"].data


def test_clips_that_were_left_out_are_left_out_again(
    loopback: Hub, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    clips = judged_on_clips(folder)
    rows = clips.read_text()
    clips.write_text(rows + '\n{"audio": "gone.wav", "text": "x"}')
    assert main(["push", str(folder)]) == 4
    assert "was judged on other clips" in capfd.readouterr().err
    known = folder, read_manifest(folder), read(folder / "recipe.yaml")
    whole = report.read(folder)
    data = whole.data.model_copy(update={"unreadable": ("gone.wav",)})
    now = Rereader(silent)(*known, whole.model_copy(update={"data": data}))
    clips.write_text(rows)
    assert now == Rereader(silent)(*known, whole)
    clips.write_text(rows + '\n{"audio": "gone.wav", "text": "x"}')
    data_of(folder, sha256=now, unreadable=("gone.wav",))
    assert main(["push", str(folder)]) == 0
    assert "clips of clips read again: as judged" in capfd.readouterr().out
    assert loopback.requests


@pytest.mark.parametrize("spoil", [overwritten, shortened])
@pytest.mark.parametrize("size", [80_000, 11_000_000], ids=["small", "large"])
def test_bytes_that_change_while_they_are_sent_do_not_arrive(
    loopback: Hub,
    folder: Path,
    size: int,
    spoil: Callable[[Path], None],
    capfd: pytest.CaptureFixture[str],
    record_property: Record,
) -> None:
    """Small files are sent from memory as they were proven; large ones have the proven hash."""
    passing.make(folder, more={"more.onnx_data": bytes(size)})

    def change(_number: int, asked: Request) -> None:
        if asked.path.endswith("/objects/batch"):
            spoil(folder / "more.onnx_data")

    loopback.fault = change
    code, repo = main(["push", str(folder)]), loopback.repos["org/speech"]
    if size < 1e7:
        assert (code, repo.files["more.onnx_data"].data) == (0, bytes(size))
    else:
        assert code == 5
        assert "more.onnx_data changed after it was verified" in capfd.readouterr().err
        assert (len(repo.commits), repo.names("tags")) == (1, {})
    record_property("promise", "P13")
    record_property("cases", 1)


def test_one_that_failed_keeps_its_siblings_back(
    loopback: Hub, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    passing.judged(passing.make(folder.parent / "another"), verdict="failed")
    assert main(["push", str(folder.parent)]) == 4
    assert "speech/another did not pass" in capfd.readouterr().err
    assert not loopback.requests


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["nothing-here"], 5, "is not an artifact"),
        (["artifacts/speech/onnx-int8", "--repo", "name"], 2, "is not a repository"),
        (["artifacts/speech/onnx-int8", "--create-pr", "--revision", "x"], 2, "leave out"),
    ],
)
def test_wrong_usage(
    loopback: Hub,
    folder: Path,
    arguments: list[str],
    code: int,
    told: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert main(["push", *arguments]) == code
    assert told in capfd.readouterr().err
    assert not loopback.requests


def test_a_recipe_that_names_no_repository(
    loopback: Hub, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    passing.make(folder, recipe=passing.RECIPE.replace("hub:", "# hub:"))
    assert main(["push", str(folder)]) == 2
    assert "no repository: give --repo ORG/NAME" in capfd.readouterr().err
    assert main(["push", str(folder), "--repo", "org/other", "--dry-run"]) == 0
    assert "to org/other, private" in capfd.readouterr().out


@pytest.mark.parametrize("path", ["/home/me/it", "~/it"])
def test_a_path_of_this_machine_in_the_recipe_is_not_published(
    loopback: Hub, folder: Path, path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    passing.make(folder, recipe=passing.RECIPE.replace("openai/whisper-small", path))
    assert main(["push", str(folder)]) == 2
    assert f"its recipe.yaml names {path}, and would be published" in capfd.readouterr().err
    assert not loopback.requests


def test_a_dry_run_tells_all_and_asks_nothing(
    loopback: Hub, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(folder), "--dry-run"]) == 0
    told = capfd.readouterr().out
    digest = read_manifest(folder).digest[:12]
    assert f"artifacts/speech/onnx-int8 to org/speech, private, as sha256-{digest}: " in told
    assert "\n  decoder_model_merged.onnx_data 120 kB\n" in told
    assert "\nbase_model: openai/whisper-small\n" in told
    assert main(["push", str(folder), "--dry-run", "--json", "--public"]) == 0
    (plan,) = json.loads(capfd.readouterr().out)["plan"]
    assert (plan["repo"], plan["private"]) == ("org/speech", False)
    assert plan["card"].startswith("---\nbase_model: ")
    assert {"path", "size_bytes", "sha256"} == set(plan["files"][0])
    assert not loopback.requests
    assert not (folder / "README.md").exists()


def test_what_was_pushed_is_told(
    loopback: Hub, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(folder)]) == 0
    repo = loopback.repos["org/speech"]
    commit = repo.refs["refs/heads/main"]
    first, clips, second = capfd.readouterr().out.splitlines()
    assert clips.endswith("not read again: they are not on this machine")
    assert first.startswith("artifacts/speech/onnx-int8 to org/speech: pushed 10 files, ")
    assert first.endswith(f"; commit {commit[:12]}, tag {next(iter(repo.names('tags')))}")
    assert second == f"  {loopback.endpoint}/org/speech/tree/{commit}"
    assert main(["push", str(folder)]) == 0
    assert ": already up to date, 10 files, " in capfd.readouterr().out
    assert main(["push", str(folder), "--json"]) == 0
    (row,) = json.loads(capfd.readouterr().out)["pushed"]
    assert (row["changed"], row["commit"]) == (False, commit)
    assert row["digest"] == store.verify(folder).digest


def test_the_token_is_nowhere(
    loopback: Hub,
    folder: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    record_property: Record,
) -> None:
    token = loopback.token
    calls = [["push", str(folder)], ["push", str(folder), "--create-pr"]]
    calls += [["push", str(folder), "--dry-run", "--json"], ["pull", "org/speech"]]
    calls = [["--debug", *call] for call in calls] + [[*call, "--json"] for call in calls]
    faults: list[str | int | None] = [None, *FAULTS, 401, 403, 404, "malformed", "elsewhere"]
    told = ""
    for fault in faults:
        for call in calls:
            loopback.fault = lambda _number, _asked, how=fault: how  # type: ignore[misc]
            main(call)
            told += "".join(capfd.readouterr())
    assert loopback.requests
    assert token not in told
    assert SIGNATURE not in told
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert (tmp_path / "artifacts" / "org" / "speech" / "manifest.json") in written
    assert not [path for path in written if token.encode() in path.read_bytes()]
    assert {one.token for one in loopback.requests if one.host == "localhost"} == {None}
    repo = loopback.repos["org/speech"]
    stored = [file.data for commit in repo.commits.values() for file in commit.files.values()]
    assert not [data for data in stored if token.encode() in data]
    count = len(faults) * len(calls)
    faulty.prove(record_property, "P12", count, "0 hits in output, files, requests")


def test_a_wrong_token_is_not_repeated(
    loopback: Hub,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    assert main(["push", str(folder)]) == 7
    err = capfd.readouterr().err
    assert "refuses the token" in err
    assert "hf_old" not in err
