"""The clips that a search ranks groups on: chosen, and none of those that judge."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from exporter.build.calibration import Calibration
from exporter.errors import DataError, RecipeError
from exporter.formats.audio import examined
from exporter.formats.audio.cutting import Excerpt
from exporter.formats.clips import Clip, chosen, list_clips
from exporter.formats.clips.addresses import Remote, source_at
from exporter.formats.clips.clip import Part
from exporter.formats.clips.opening import Opener
from exporter.recipe import Data, Recipe
from exporter.system.files import sha256_file


@dataclass(frozen=True)
class Ranking:
    """Clips to rank groups on, and a hash of their sounds."""

    paths: tuple[Path, ...]
    sha256: str


def ranking(
    source: Path | Remote | None, count: int, recipe: Recipe, calibration: Calibration | None
) -> Ranking:
    """Choose the clips to rank groups on.

    Args:
        source: A folder or manifest of clips, or an address in an object store; None: those of the
            recipe's calibration.
        count: The most clips.
        recipe: The recipe, whose `data` judge.
        calibration: The recipe's calibration, if it has one.

    Raises:
        RecipeError: No source is named, and the recipe has no calibration.
        DataError: A clip cannot be read, or is one of those that judge.
    """
    if source is None and calibration is None:
        msg = (
            "the groups are ranked on recordings that do not judge: name some with --clips\n"
            "It takes a folder, a manifest or an address, as `data.clips` of a recipe does."
        )
        raise RecipeError(msg)
    if source is not None:
        shown, listed = str(source), list(list_clips(source))
    else:
        assert calibration is not None, "checked above"
        shown, listed = (
            "calibration.clips",
            [Clip(path.name, path, "") for path in calibration.paths],
        )
    some = [listed[place] for place in chosen(len(listed), count, 0)]
    if not some:
        msg = f"{shown} lists no clips"
        raise DataError(msg)
    with Opener() as opener:
        paths = [opener.kept(clip).resolve() for clip in some]
    sounds = [examined(path)[1] for path in paths]
    _require_others(shown, some, recipe)
    return Ranking(
        tuple(paths),
        hashlib.sha256("".join(sounds).encode()).hexdigest(),
    )


def _require_others(source: str, some: Sequence[Clip], recipe: Recipe) -> None:
    """Refuse clips of the recipe's data: its files under any name, and the same parts of files."""
    sizes: dict[int, list[Path]] = {}
    parts: set[tuple[Path, Part]] = set()
    for clip in _local(recipe):
        if clip.part is None:
            sizes.setdefault(clip.path.stat().st_size, []).append(clip.path)
        else:
            parts.add(_place(clip.path, clip.part))
    for clip in some:
        if clip.part is not None:
            judges = _place(clip.path, clip.part) in parts
        else:
            alike = sizes.get(clip.path.stat().st_size, ())
            judges = any(sha256_file(other) == sha256_file(clip.path) for other in alike)
        if judges:
            msg = (
                f"{source}: {clip.id} is among the recipe's data, which must judge what it did "
                "not choose.\nGive other recordings to --clips."
            )
            raise DataError(msg)


def _place(path: Path, part: Part) -> tuple[Path, Part]:
    """Return what is the same for all names of a part of a file, and all options of a store."""
    if not isinstance(part, Excerpt) and part.url:
        return Path(), replace(part, url=str(Remote(part.url)))
    return path.resolve(), part


def judging(recipe: Recipe, data: Data) -> tuple[int, str]:
    """Return how many clips judge a plan, and a hash of their list; of a dataset, as it is named.

    The audio is not opened: the validator does that.
    """
    if data.clips is None:
        return data.max_clips or recipe.gate.min_clips, data.shown
    listed = list(list_clips(source_at(recipe.path.parent, data.clips)))
    rows = [f"{clip.id} {clip.size_bytes} {clip.text}" for clip in listed]
    count = min(len(listed), data.max_clips or len(listed))
    return count, hashlib.sha256("\n".join(rows).encode()).hexdigest()


def _local(recipe: Recipe) -> Iterator[Clip]:
    if recipe.data and recipe.data.clips:
        yield from list_clips(source_at(recipe.path.parent, recipe.data.clips))
