"""A build keeps its artifact, whatever is wrong with the recordings that it could be tried on."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from exporter import cli
from exporter.build import smoke_test, worker_steps

DATA = "decoding: {language: en, task: transcribe}\ndata: {clips: clips}\n"


@pytest.fixture
def clips(checkpoint: Path) -> Path:
    """A recipe's folder of clips, with junk that no manifest lists, and three broken clips."""
    recipe = checkpoint.parent / "recipe.yaml"
    recipe.write_text(recipe.read_text() + DATA)
    folder = checkpoint.parent / "clips"
    folder.mkdir()
    (folder / "x.flac").symlink_to("nowhere.flac")
    (folder / "empty.wav").touch()
    (folder / "x.wav").mkdir()
    (folder / os.fsdecode(b"caf\xe9.raw")).write_bytes(bytes(99))
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000)
    soundfile.write(folder / "good.wav", noise, 16_000)
    soundfile.write(folder / "cut.flac", noise, 16_000)
    whole = (folder / "cut.flac").read_bytes()
    (folder / "cut.flac").write_bytes(whole[: len(whole) // 2])
    return folder


def listed(folder: Path, *names: str) -> None:
    rows = [json.dumps({"audio": name, "text": "red"}) for name in names]
    (folder / "manifest.jsonl").write_text("\n".join(rows))


def built(capfd: pytest.CaptureFixture[str]) -> str:
    assert cli.main(["build", "recipe.yaml", "--force"]) == 0
    assert (Path("artifacts") / "tiny" / "torch-int8" / "manifest.json").is_file()
    return capfd.readouterr().err


@pytest.mark.usefixtures("steps_here")
def test_an_artifact_is_kept(
    clips: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str | None] = []
    inner = smoke_test._clip

    def noted(path: str | None, rate: int) -> object:
        tried.append(path)
        return inner(path, rate)

    monkeypatch.setattr(smoke_test, "_clip", noted)
    listed(clips, "good.wav")
    assert built(capfd) == ""
    listed(clips, "cut.flac", "good.wav")
    told = built(capfd)
    assert tried == [str(clips / "good.wav"), None]
    assert "warning: the artifact will be tried on noise only" in told
    assert "cut.flac cannot be read as audio" in told


@pytest.mark.usefixtures("steps_here")
def test_a_clip_that_goes_away_during_the_build(
    clips: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    listed(clips, "good.wav")
    build_target = worker_steps.build_target

    def slow(*how: object) -> object:
        (clips / "good.wav").write_bytes(b"")
        return build_target(*how)  # type: ignore[arg-type]

    monkeypatch.setattr(worker_steps, "build_target", slow)
    built(capfd)


@pytest.mark.usefixtures("checkpoint")
def test_paths_that_are_not_utf_8_are_told_before_any_work(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Libraries cannot open them; the recipe's own name does not matter."""
    odd = os.fsdecode(b"caf\xe9")
    assert cli.main(["build", "recipe.yaml", "--output", odd]) == 2
    assert rf"{tmp_path}/caf\xe9: the path is not UTF-8" in capfd.readouterr().err
    assert cli.main(["build", "recipe.yaml", "--set", f"name={odd}"]) == 2
    Path("checkpoint").rename(odd)
    assert cli.main(["build", "recipe.yaml", "--checkpoint", odd]) == 3
    assert rf"{tmp_path}/caf\xe9: the path is not UTF-8" in capfd.readouterr().err
    for command in (["inspect"], ["transcribe"], ["bench"], ["validate"], ["verify"], ["push"]):
        more = ["x.wav"] if command == ["transcribe"] else []
        assert cli.main([*command, odd, *more]) in (2, 3, 5)
        assert "\\udce9" not in capfd.readouterr().out
