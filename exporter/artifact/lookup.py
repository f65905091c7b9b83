"""Find artifacts by path, and tell what else a path is.

Commands take artifacts, folders of them, recipes and audio; users give one for another. An error
says what the path is, and the command to write.
"""

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from shlex import quote

from exporter.errors import ExporterError, IntegrityError, RecipeError
from exporter.runtime.manifest import MANIFEST, RECIPE

# File names by which transformers knows a checkpoint, or peft an adapter.
_CONFIGS = ("config.json", "adapter_config.json")
_RECIPES = frozenset({".yaml", ".yml"})
# What people name audio, readable here or not.
AUDIO_SUFFIXES = frozenset(
    (
        *(".aac", ".aif", ".aiff", ".au", ".caf", ".flac", ".m4a", ".mp3", ".mp4"),
        *(".oga", ".ogg", ".opus", ".wav", ".webm", ".wma"),
    )
)
_MOST_NAMED = 6
# No more entries of a folder are looked at: a user may name any folder.
_MOST_ENTRIES = 10_000


def is_artifact(path: Path) -> bool:
    """Return True if a folder has an artifact's manifest, whatever it holds."""
    return _has(path, MANIFEST)


def inside(folder: Path) -> list[Path]:
    """Return the artifacts one level below a folder, sorted by name."""
    return [each for each in _entries(folder) if each.name[0] != "." and is_artifact(each)]


def find(path: Path) -> list[Path]:
    """Return the artifact at a path, or the artifacts one level below it, sorted by name.

    Args:
        path: An artifact, or a folder of artifacts.

    Raises:
        RecipeError: The path is something else, such as a recipe or a checkpoint.
        IntegrityError: There is no artifact.
    """
    if is_artifact(path):
        return [path]
    if found := inside(path):
        return found
    raise not_an_artifact(path)


def not_an_artifact(path: Path) -> ExporterError:
    """Return the error for a path that was given for an artifact and has no manifest."""
    if is_checkpoint(path):
        msg = f"{path} is a checkpoint, not an artifact: write a recipe, then build it:"
        return RecipeError(f"{msg}\nexporter init {quoted(path)}")
    if told := _several(path) or _another_kind(path):
        return RecipeError(told)
    missing = f"it has no {MANIFEST}" if _safely(path.exists) else "it does not exist"
    return IntegrityError(
        f"{path} is not an artifact: {missing}.\nBuild one: exporter build RECIPE"
    )


def require_model(path: Path) -> None:
    """Raise RecipeError if a path given for an artifact or a checkpoint is neither.

    Args:
        path: What was given; a folder of unknown content passes.
    """
    if is_artifact(path) or is_checkpoint(path):
        return
    if told := _several(path) or _another_kind(path):
        raise RecipeError(told)


def _several(path: Path) -> str | None:
    if found := inside(path):
        return f"{path} holds {_counted(found, 'artifact')}: choose one of {_named(found)}"
    folders = [each for each in _entries(path) if each.name[0] != "." and inside(each)]
    if folders:
        return f"{path} holds {_counted(folders, 'folder')} of artifacts: choose {_named(folders)}"
    return None


def _another_kind(path: Path) -> str | None:
    """Return the sentence about a file, such as a recipe, or a folder of audio; else None."""
    if _safely(path.is_file):
        if path.suffix in _RECIPES:
            return f"{path} is a recipe, not an artifact: build it: exporter build {quoted(path)}"
        if path.name == MANIFEST:
            return f"{path} is a file of an artifact: name its folder, {path.parent}"
        if is_audio(path):
            return (
                f"{path} is audio, not an artifact: name an artifact first, then audio:\n"
                f"exporter transcribe ARTIFACT {quoted(path)}"
            )
        return f"{path} is a file: an artifact is a folder that `exporter build` made"
    if audio_in(path):
        return f"{path} is a folder of audio, not an artifact: `exporter list` shows artifacts"
    return None


def require_recipe(path: Path) -> None:
    """Raise RecipeError if a path given for a recipe is something else.

    Args:
        path: What was given; a file that may be a recipe passes.
    """
    if told := _not_a_recipe(path):
        raise RecipeError(told)


def _not_a_recipe(path: Path) -> str | None:
    if not _safely(path.is_dir):
        if is_audio(path):
            return f"{path} is audio, not a recipe: a recipe is a YAML file: exporter init --help"
        return None
    if is_artifact(path):
        return (
            f"{path} is an artifact, not a recipe: it is built already.\n"
            f"See it: exporter inspect {quoted(path)}"
        )
    if is_checkpoint(path):
        return (
            f"{path} is a checkpoint, not a recipe: write a recipe, then build it:\n"
            f"exporter init {quoted(path)}"
        )
    if found := inside(path):
        return f"{path} holds {_counted(found, 'artifact')}, not a recipe: name a YAML file"
    if recipes := [each for each in _entries(path) if each.suffix in _RECIPES]:
        return f"{path} is a folder of recipes: choose one of {_named(recipes)}"
    return f"{path} is a folder, not a recipe: name a YAML file, like recipes/NAME.yaml"


def require_audio(artifact: str, audio: Sequence[Path]) -> None:
    """Raise RecipeError if the arguments of `transcribe` are swapped.

    Args:
        artifact: What was given for the artifact: a folder or a Hub id.
        audio: What was given for audio files; files are not opened.
    """
    if told := _not_audio(artifact, audio):
        raise RecipeError(told)


def _not_audio(artifact: str, audio: Sequence[Path]) -> str | None:
    swapped = next((path for path in audio if is_artifact(path)), None)
    if swapped and is_audio(Path(artifact)):
        files = [Path(artifact), *(path for path in audio if path != swapped)]
        return f"{swapped} is an artifact, and comes first:\n{_command(str(swapped), files)}"
    if swapped:
        return f"{swapped} is an artifact, not audio: give one artifact, then audio files"
    return None


def _command(artifact: str, audio: Sequence[Path]) -> str:
    return " ".join(["exporter transcribe", quote(artifact), *map(quoted, audio)])


def is_checkpoint(path: Path) -> bool:
    """Return True if a folder looks like a checkpoint or an adapter of transformers or peft."""
    ours = _has(path, MANIFEST) or _has(path, RECIPE)  # an artifact without a manifest is damaged
    return not ours and any(_has(path, name) for name in _CONFIGS)


def is_audio(path: Path) -> bool:
    """Return True if a file is named like audio."""
    return path.suffix.lower() in AUDIO_SUFFIXES and _safely(path.is_file)


def audio_in(folder: Path) -> list[Path]:
    """Return the files in a folder that are named like audio, sorted."""
    return [each for each in _entries(folder) if is_audio(each)]


def _has(folder: Path, name: str) -> bool:
    return _safely((folder / name).exists)


def _safely(look: Callable[[], bool]) -> bool:
    """Return what a look at a path gives; False for a name that no file can have."""
    try:
        return look()
    except OSError:
        return False


def quoted(path: Path) -> str:
    """Return a path as a shell takes it."""
    return quote(str(path))


def _entries(folder: Path) -> list[Path]:
    """Return a folder's entries, sorted; none if it is no folder, or cannot be read."""
    try:
        return sorted(islice(folder.iterdir(), _MOST_ENTRIES))
    except OSError:
        return []


def _counted(paths: list[Path], what: str) -> str:
    return f"{len(paths)} {what}{'s' if len(paths) > 1 else ''}"


def _named(paths: list[Path]) -> str:
    rest = len(paths) - _MOST_NAMED
    shown = ", ".join(map(str, paths[:_MOST_NAMED]))
    return f"{shown} and {rest} more" if rest > 0 else shown
