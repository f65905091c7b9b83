"""Write a GitHub workflow: build, validate, and push from main what passed."""

import json
import logging
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath

from exporter import DISTRIBUTION
from exporter.errors import RecipeError
from exporter.recipe import Recipe
from exporter.system.files import make_folder, read_small, require_no_link, write_atomic

PLACE = PurePosixPath(".github/workflows/export.yml")
_TEMPLATE = "workflow.yml.j2"
# Pinned by commit, since a tag can be moved: `git ls-remote --tags
# https://github.com/actions/checkout` lists them.
_ACTIONS = {
    "checkout": "actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1",
    "setup_python": "actions/setup-python@5fda3b95a4ea91299a34e894583c3862153e4b97 # v7.0.0",
    "cache": "actions/cache@27d5ce7f107fe9357f9df03efb73ab90386fccae # v5.0.5",
    "upload_artifact": "actions/upload-artifact@bbbca2ddaa5d8feaa63e36b76fdaad77386f024f # v7.0.0",
    "download_artifact": (
        "actions/download-artifact@3e5f45b2cfb9172054b4087a40e8e0b5a5461e7c # v8.0.1"
    ),
}
_MAX_BYTES = 1 << 20
_EXPRESSION = "${{"  # GitHub evaluates expressions that begin like this, wherever they are

_log = logging.getLogger(__name__)


def write(recipe: Recipe, package: str | None, *, force: bool) -> Path:
    """Write the workflow of a recipe into its repository.

    Args:
        recipe: The recipe, inside a git repository.
        package: The requirement for pip to install; this installation if None.
        force: Replace a different workflow.

    Returns:
        The path of the workflow.

    Raises:
        RecipeError: The workflow could not build or push, or a different one exists.
        IntegrityError: A link is in its place.
    """
    root = _root(recipe.path)
    text = written(recipe, root, package or _installed(root, recipe))
    path = root / PLACE
    require_no_link(path, root)
    there = path.exists() and read_small(path, _MAX_BYTES, RecipeError, "a workflow")
    if there not in (False, text.encode()) and not force:
        msg = f"{path} already exists: replace it with --force"
        raise RecipeError(msg)
    make_folder(path.parent)
    write_atomic(path, text.encode())
    return path


def written(recipe: Recipe, root: Path, package: str) -> str:
    """Return the workflow's text.

    Args:
        recipe: The recipe, inside `root`.
        root: The git repository.
        package: The requirement for pip to install.

    Raises:
        RecipeError: The recipe names no repository on the Hub, or a value cannot be written into a
            workflow.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    if recipe.hub is None:
        msg = f"{recipe.path} names no repository: add `hub: {{repo: ORG/NAME}}`"
        raise RecipeError(msg)
    _warn_of_absent(recipe, root)
    values = {
        "name": f"export {recipe.name}",
        "recipe": _argument(_within(root, recipe.path)),
        "artifacts": f"artifacts/{recipe.name}",
        "package": package,
    }
    for value in values.values():
        if _EXPRESSION in value or not value.isprintable():
            msg = f"{value!r} cannot be written into a workflow: rename it"
            raise RecipeError(msg)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # YAML; every value goes through `tojson`, which is YAML too
        undefined=StrictUndefined,
        variable_start_string="[[",  # GitHub uses {{ and }} itself
        variable_end_string="]]",
        keep_trailing_newline=True,
    )
    return environment.get_template(_TEMPLATE).render(values, actions=_ACTIONS, place=PLACE)


def _root(path: Path) -> Path:
    """Return the git repository of a recipe; raise RecipeError if there is none."""
    for folder in path.resolve().parents:
        if (folder / ".git").exists():
            return folder
    msg = f"{path} is in no git repository: run `git init` at its root"
    raise RecipeError(msg)


def _within(root: Path, path: Path) -> str:
    return path.resolve().relative_to(root).as_posix()


def _argument(path: str) -> str:
    """Return a path that no command parses as an option."""
    return f"./{path}" if path.startswith("-") else path


def _warn_of_absent(recipe: Recipe, root: Path) -> None:
    """Warn of folders outside the repository, which a runner will not have."""
    for name in (recipe.checkpoint, recipe.data.clips if recipe.data else None):
        path = (recipe.path.parent / (name or "")).resolve()
        if path.exists() and not path.is_relative_to(root):
            _log.warning("%s lies outside the repository: the workflow will not find it", name)


def _installed(root: Path, recipe: Recipe) -> str:
    """Return the requirement with which pip installs this package, by its PEP 610 record.

    Never the bare name: a package index may have somebody else's package of that name.
    """
    extra = f"[{','.join(_extras(recipe))}]"
    try:
        installed = distribution(DISTRIBUTION)
    except PackageNotFoundError:
        raise _unknown_origin() from None
    origin = json.loads(installed.read_text("direct_url.json") or "{}")
    if control := origin.get("vcs_info"):
        return f"{DISTRIBUTION}{extra} @ {control['vcs']}+{origin['url']}@{control['commit_id']}"
    if origin.get("url") == root.as_uri():
        return f".{extra}"
    if not origin:
        return f"{DISTRIBUTION}{extra}=={installed.version}"
    raise _unknown_origin()


def _extras(recipe: Recipe) -> Iterator[str]:
    """Yield the extras that build, validate and push a recipe's artifacts."""
    yield "validate"
    if any(target.kind == "onnx-int8" for target in recipe.targets):
        yield "onnxruntime"
    if recipe.data and recipe.data.dataset:
        yield "datasets"


def _unknown_origin() -> RecipeError:
    return RecipeError(
        "cannot tell what the workflow should install, because exporter was installed from a "
        "folder: pass --package, like\n"
        "'asr-exporter[validate,onnxruntime] @ git+https://HOST/ORG/exporter@COMMIT'"
    )
