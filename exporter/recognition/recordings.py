"""The recordings that a command is given: files, folders of files, and manifests."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from exporter.artifact.lookup import is_audio
from exporter.errors import RecipeError
from exporter.formats.clips import audio_of

_MANIFEST = ".jsonl"


@dataclass(frozen=True)
class Recording:
    """A file of audio, and the name of its result, without a suffix, in a folder of results."""

    path: Path
    result: PurePath


def recordings_of(given: Sequence[Path]) -> list[Recording]:
    """Return the files of audio that paths name, in their order.

    Args:
        given: Files; folders, of which all files that are named like audio are taken, at any
            depth, sorted; and manifests, whose names end in `.jsonl`.

    Raises:
        RecipeError: The only path is a folder without audio.
        DataError: A manifest's row names none.
    """
    return [each for path in given for each in _recordings(path, alone=len(given) == 1)]


def require_distinct(recordings: Sequence[Recording]) -> None:
    """Raise RecipeError if two recordings would have the same result."""
    seen: dict[PurePath, Path] = {}
    for each in recordings:
        other = seen.setdefault(each.result, each.path)
        if other is not each.path:
            msg = f"{other} and {each.path} would both write {each.result}: transcribe them apart"
            raise RecipeError(msg)


def _recordings(given: Path, *, alone: bool) -> Iterator[Recording]:
    found = sorted(path for path in given.rglob("*") if is_audio(path)) if _is_folder(given) else []
    if found:
        for path in found:
            yield Recording(path, path.relative_to(given).with_suffix(""))
    elif alone and _is_folder(given):  # one of several is told when it is read
        msg = f"{given} is a folder without audio: name audio files"
        raise RecipeError(msg)
    elif given.suffix == _MANIFEST:
        for path in audio_of(given):
            yield Recording(path, PurePath(path.stem))
    else:
        yield Recording(given, PurePath(given.stem))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that no file can have, which reading tells
        return False
