"""The clips that a search ranks groups on: chosen, and none of those that judge."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from exporter.build.calibration import Calibration
from exporter.errors import DataError, RecipeError
from exporter.formats.audio import examined
from exporter.formats.clips import chosen, list_clips
from exporter.recipe import Data, Recipe
from exporter.system.files import sha256_file


@dataclass(frozen=True)
class Ranking:
    """Clips to rank groups on, and a hash of their sounds."""

    paths: tuple[Path, ...]
    sha256: str


def ranking(
    source: Path | None, count: int, recipe: Recipe, calibration: Calibration | None
) -> Ranking:
    """Choose the clips to rank groups on.

    Args:
        source: A folder or manifest of clips; None: those of the recipe's calibration.
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
            "It takes a folder or a manifest, as `data.clips` of a recipe does."
        )
        raise RecipeError(msg)
    if source is not None:
        shown, listed = str(source), [(clip.id, clip.path) for clip in list_clips(source)]
    else:
        assert calibration is not None, "checked above"
        shown, listed = "calibration.clips", [(path.name, path) for path in calibration.paths]
    some = [listed[place] for place in chosen(len(listed), count, 0)]
    if not some:
        msg = f"{shown} lists no clips"
        raise DataError(msg)
    sounds = [examined(path)[1] for _, path in some]
    _require_others(shown, some, recipe)
    return Ranking(
        tuple(path.resolve() for _, path in some),
        hashlib.sha256("".join(sounds).encode()).hexdigest(),
    )


def _require_others(source: str, some: Sequence[tuple[str, Path]], recipe: Recipe) -> None:
    """Refuse clips that are files of the recipe's data, under any name."""
    sizes: dict[int, list[Path]] = {}
    for path in _local(recipe):
        sizes.setdefault(path.stat().st_size, []).append(path)
    for name, path in some:
        for other in sizes.get(path.stat().st_size, ()):
            if sha256_file(other) == sha256_file(path):
                msg = (
                    f"{source}: {name} is among the recipe's data, which must judge what it did "
                    "not choose.\nGive other recordings to --clips."
                )
                raise DataError(msg)


def judging(recipe: Recipe, data: Data) -> tuple[int, str]:
    """Return how many clips judge a plan, and a hash of their list; of a dataset, as it is named.

    The audio is not opened: the validator does that.
    """
    if data.clips is None:
        return data.max_clips or recipe.gate.min_clips, data.shown
    listed = list(list_clips(recipe.path.parent / data.clips))
    rows = [f"{clip.id} {clip.path.stat().st_size} {clip.text}" for clip in listed]
    count = min(len(listed), data.max_clips or len(listed))
    return count, hashlib.sha256("\n".join(rows).encode()).hexdigest()


def _local(recipe: Recipe) -> Iterator[Path]:
    if recipe.data and recipe.data.clips:
        for clip in list_clips(recipe.path.parent / recipe.data.clips):
            yield clip.path
