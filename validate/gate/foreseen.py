"""Why a gate cannot pass, whatever is built: told by a recipe and its clips, without a model."""

import numpy as np

from exporter.errors import DataError
from exporter.formats.clips import chosen, list_clips
from exporter.formats.clips.addresses import is_remote, source_at
from exporter.recipe import Recipe
from exporter.validate.gate.judge import obstacles
from exporter.validate.scoring.normaliser import separated
from exporter.validate.scoring.units import units_of


def obstacles_of(recipe: Recipe) -> list[str]:
    """Return why `validate` could not pass a recipe's artifacts, as far as local data tells.

    Args:
        recipe: The recipe; a dataset of the Hub, or one in an object store, is not fetched.
    """
    data, gate = recipe.data, recipe.gate
    if data is None:
        return ["the recipe names no data; add `data`, or give it to `validate` with --data"]
    if data.clips is None or is_remote(data.clips):
        most = data.max_clips or gate.min_clips
        fewer = f"data.max_clips {most} is below gate.min_clips, {gate.min_clips}"
        return [fewer] if most < gate.min_clips else []
    try:
        listed = list_clips(source_at(recipe.path.parent, data.clips))
        known = [
            (len(separated(clip.text).split()), clip.speaker, clip.recording) for clip in listed
        ]
    except DataError as error:
        return [str(error)]
    some = [known[place] for place in chosen(len(known), data.max_clips, data.seed)]
    words = np.array([words for words, *_ in some], dtype=np.int64)
    return obstacles(words, gate, units_of((speaker, recording) for _, speaker, recording in some))
