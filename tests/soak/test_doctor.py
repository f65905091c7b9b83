"""The doctor among damaged files, some thousand times: a diagnosis each time, never an error."""

from pathlib import Path

import pytest

from tests.support.doctor_sweep import damageable, sweep


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where payloads would leave something."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_damaged_checkpoints(tiny_whisper: Path, here: Path) -> None:
    sweep(damageable(tiny_whisper, here / "whole"), here / "model", 3000)


def test_damaged_exports(merged_export: Path, here: Path) -> None:
    sweep(merged_export, here / "model", 1000)
