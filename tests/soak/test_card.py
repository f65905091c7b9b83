"""The card of an aoti artifact: compiled, pushed, and its snippets run."""

from pathlib import Path

import pytest

from tests.support import snippets
from tests.support.hub import Hub


def test_its_snippets_run(
    loopback: Hub, tiny_whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    snippets.run(loopback, tiny_whisper, "aoti")
