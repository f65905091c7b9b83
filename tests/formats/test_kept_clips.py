"""Clips that calibrations keep in the cache: written once, listed and cleared as the rest of it."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from exporter.cli import main
from exporter.formats.clips import list_clips
from exporter.formats.clips.opening import Opener


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache's folder, with two parts of a recording."""
    monkeypatch.setenv("EXPORTER_CACHE", str(tmp_path / "cache"))
    soundfile.write(tmp_path / "call.wav", np.repeat([0.1, 0.2, 0.3], 8000), 8000)
    rows = [{"audio": "call.wav", "text": "x", "offset": n, "duration": 1.0} for n in range(2)]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with Opener() as opener:
        paths = [opener.kept(clip) for clip in list_clips(tmp_path / "m.jsonl")]
        again = [opener.kept(clip) for clip in list_clips(tmp_path / "m.jsonl")]
    assert paths == again
    assert [round(float(soundfile.read(path)[0].mean()), 2) for path in paths] == [0.1, 0.2]
    return tmp_path / "cache"


def said(capfd: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["cache", *words]) == 0
    return capfd.readouterr().out


def test_they_are_listed_and_cleared(cached: Path, capfd: pytest.CaptureFixture[str]) -> None:
    kept = sorted((cached / "clips" / "parts").iterdir())
    size = sum(path.stat().st_size for path in kept)
    (entry,) = json.loads(said(capfd, "--json"))["entries"]
    assert entry["what"] == "2 clips for calibrations and searches"
    assert (entry["path"], entry["size_bytes"]) == (str(cached / "clips" / "parts"), size)
    assert "2 clips for calibrations" in said(capfd)
    assert json.loads(said(capfd, "--clear", "--json"))["freed_bytes"] == size
    assert json.loads(said(capfd, "--json"))["entries"] == []
    assert not any(path.exists() for path in kept)


def test_what_is_not_ours_stays(cached: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The cache may be put into a folder that somebody keeps clips in."""
    place = cached / "clips" / "parts"
    partial = place / f".{'0' * 64}.wav.partial-{'0' * 32}"
    partial.write_bytes(b"left by a killed process")
    others = (cached / "clips" / "mine.wav", place / "mine.wav", place / f"{'0' * 64}.wav.txt")
    for path in others:
        path.write_bytes(b"x")
    said(capfd, "--clear")
    assert sorted(path for path in cached.rglob("*") if path.is_file()) == sorted(others)
