"""Start a recipe: from a checkpoint's folder or Hub id, offline, with comments."""

import json
import os
import re
import shlex
from pathlib import Path

from exporter.errors import CheckpointError, RecipeError
from exporter.families import FAMILIES, family_facts, family_name
from exporter.formats.config_json import read_json
from exporter.hub.client import hub_id
from exporter.system.files import make_folder, write_atomic

_TEMPLATE = "recipe.yaml.j2"
_FOLDER = Path("recipes")
_ENDING = "-int8"
_MOST_NAME = 96 - len(_ENDING)
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")
_PLAIN = re.compile(r"[A-Za-z0-9.][\w.@-]*/[\w./@-]+")


def start(source: str, output: Path | None, repo: str | None, *, force: bool) -> Path:
    """Write a recipe.

    Args:
        source: A checkpoint: a folder, or `ORG/NAME` or `ORG/NAME@REVISION` on the Hub, which is
            not asked.
        output: The recipe's path; `recipes/NAME-int8.yaml` if None.
        repo: The Hub repository of the artifacts, if it is known.
        force: Replace a different recipe.

    Returns:
        The recipe's path.

    Raises:
        RecipeError: `source` or `repo` is none, or another recipe is in that place.
        CheckpointError: The folder holds no checkpoint of a known family.
    """
    named = None if Path(source).is_dir() else hub_id(source)
    if named is None and not Path(source).is_dir():
        msg = f"{source}: no checkpoint: give a folder, or a Hub id like ORG/NAME"
        raise RecipeError(msg)
    if repo is not None and (hub_id(repo) is None or "@" in repo):
        msg = f"{repo!r} is not a repository: give one like ORG/NAME"
        raise RecipeError(msg)
    family = _family_named(named[0]) if named else _family_of(Path(source))
    english = source.endswith(".en") if named else _english_only(Path(source))
    name = _name(named[0] if named else Path(source).resolve().name)
    path = output or _FOLDER / f"{name}.yaml"
    checkpoint = source if named else os.path.relpath(source, path.parent)
    if not checkpoint.isprintable() or not str(path).isprintable():
        msg = f"{checkpoint!r} cannot be written into a recipe: rename it"
        raise RecipeError(msg)
    text = _rendered(
        name=name, path=shlex.quote(str(path)), checkpoint=_yaml(checkpoint), folder=not named,
        told="task" in family_facts(family).DECODING, english=english, repo=repo and _yaml(repo),
    )  # fmt: skip
    same = path.is_file() and path.read_bytes() == text.encode()
    if os.path.lexists(path) and not same and not force:
        msg = f"{path} already exists: replace it with --force, or choose another --output"
        raise RecipeError(msg)
    make_folder(path.parent)
    write_atomic(path, text.encode())
    return path


def _rendered(**values: object) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # YAML; every value was checked, and `_yaml` quotes
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(_TEMPLATE).render(values)


def _family_of(folder: Path) -> str:
    """Return the family of a folder, of an adapter the first one, whose base is elsewhere.

    Raises:
        CheckpointError: It holds no checkpoint of a known family.
    """
    if (folder / "adapter_config.json").is_file():
        return next(iter(FAMILIES))
    if not (folder / "config.json").is_file():
        msg = f"{folder} holds no config.json, so it is no checkpoint of transformers"
        raise CheckpointError(msg)
    return family_name(read_json(folder / "config.json"))


def _family_named(repo: str) -> str:
    """Guess the family of a repository, which is not asked, by a type of model in its name."""
    types = {kind: name for name in FAMILIES for kind in family_facts(name).MODEL_TYPES}
    parts = (kind for kind in types if kind in repo.lower().replace("_", "-"))
    return types.get(max(parts, key=len, default=""), next(iter(FAMILIES)))


def _english_only(folder: Path) -> bool:
    """Return True for a checkpoint whose generation config has no languages."""
    generation = folder / "generation_config.json"
    return generation.is_file() and read_json(generation).get("is_multilingual") is False


def _name(source: str) -> str:
    """Return the name of a recipe after the last part of a checkpoint's name."""
    stem = _NOT_IN_NAMES.sub("-", source.rpartition("/")[2]).strip("._-")
    return (stem[:_MOST_NAME] or "checkpoint") + _ENDING


def _yaml(text: str) -> str:
    """Return a text as YAML; a JSON string is one."""
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)
