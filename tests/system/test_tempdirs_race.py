"""Nobody's folder is removed while somebody claims it."""

from pathlib import Path

import pytest

from exporter.engine import unfinished
from exporter.system import files, tempdirs
from exporter.system.files import FileLock


def test_a_folder_that_is_being_removed_cannot_be_claimed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the lock that is made between the removal of files and of the folder holds nothing."""
    monkeypatch.setattr(tempdirs.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("EXPORTER_CACHE", str(tmp_path / "cache"))
    dead = [tmp_path / f"exporter-step-{'0' * 32}", tmp_path / "cache" / "parts" / "key"]
    for folder in dead:
        folder.mkdir(parents=True)
        (folder / "lock").touch()
    real, removed = files.remove, list[Path]()

    def claiming(folder: Path) -> None:
        removed.append(folder)
        for each in dead[len(removed) - 1 : len(removed)]:
            with pytest.raises(FileNotFoundError):
                FileLock(each / "lock").acquire()
        real(folder)

    monkeypatch.setattr(files, "remove", claiming)
    tempdirs._clear(tmp_path)
    unfinished.clear()
    assert [folder.name for folder in removed] == [f"{folder.name}.removed" for folder in dead]
    assert not any(folder.exists() for folder in (*dead, *removed))


def test_a_removal_that_was_cut_off_is_finished(tmp_path: Path) -> None:
    left = tmp_path / f"exporter-step-{'1' * 32}.removed"
    left.mkdir()
    (left / "lock").touch()
    tempdirs._clear(tmp_path)
    assert not left.exists()
