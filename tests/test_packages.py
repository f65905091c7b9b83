"""Packages import downwards only, read from the source without running it."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from exporter.errors import missing_package
from exporter.families import FAMILIES
from exporter.quantization.schemes import SCHEMES
from exporter.system.registry import Registry
from exporter.targets import TARGETS
from tests.support.package_order import PACKAGE_ORDER

ROOT = Path(__file__).resolve().parents[1]

HEAVY = {"torch", "transformers", "onnxruntime", "onnx", "onnxscript", "optimum", "safetensors"} | {
    "onnx_ir"
}
# Imported before torch may be: by `--help`, by `list`, or before an artifact is trusted.
LIGHT = ("cli", "artifact", "system", "hub", "recipe", "errors")
AXES: dict[str, Registry[Any]] = {
    "families": FAMILIES,
    "targets": TARGETS,
    "quantization": SCHEMES,
}
# What each package may import beyond the base install, and so needs.
EXTRAS_OF = {
    "artifact": ("hub", "sign"),
    "bench": ("build",),
    "build": ("build",),
    "checkpoint": ("build",),
    "cli": ("hub",),
    "doctor": ("build", "onnxruntime"),
    "engine": ("datasets", "ray"),
    "families": ("build",),
    "formats": ("build", "datasets"),
    "hub": ("hub",),
    "quantization": ("build",),
    "recipe": ("hub",),
    "recognition": ("build",),
    "runtime": ("onnxruntime", "tokenizers"),
    "targets": ("build",),
    "tune": ("validate",),
    "validate": ("validate", "datasets"),
}
# The packages, of which `runtime` is the seventeenth, and the commands, one module each.
MOST_ENTRIES = {"exporter": 20, "exporter/cli": 13}
PACKAGE = ROOT / "exporter"
# `exporter/validate` is a link to the repository's folder `validate`, which `**` does not follow.
FILES = sorted({*PACKAGE.glob("**/*.py"), *PACKAGE.glob("validate/**/*.py")})


def module_of(path: Path) -> str:
    dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return dotted.removesuffix(".__init__")


@cache
def imports_of(path: Path) -> frozenset[str]:
    """Every module that a file imports anywhere, also inside functions and for types alone."""
    return frozenset(_imports(ast.parse(path.read_text(encoding="utf-8"))))


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if _is_module(inner) else str(node.module)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "import_module":
            yield from (named.value for named in node.args if isinstance(named, ast.Constant))


def _is_module(dotted: str) -> bool:
    path = ROOT.joinpath(*dotted.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def package_of(module: str) -> str | None:
    """The package, or the module beside the packages, that holds a module of ours."""
    first, *rest = module.split(".")
    return rest[0] if first == "exporter" and rest and rest[0] in PACKAGE_ORDER else None


def entries(folder: Path) -> list[str]:
    """What somebody sees in a folder of source."""
    return sorted(path.name for path in folder.iterdir() if path.name[0] not in "_.")


def ours(module: str) -> bool:
    return module.split(".")[0] == "exporter"


each_file = pytest.mark.parametrize("path", FILES, ids=module_of)


def test_every_package_has_its_place() -> None:
    found = {path.name.removesuffix(".py") for path in (ROOT / "exporter").iterdir()}
    found = {name for name in found if name[0] not in "_." and name != "py"}
    assert found - {"py.typed"} == set(PACKAGE_ORDER)


@each_file
def test_packages_import_downwards_only(path: Path) -> None:
    module = module_of(path)
    package = package_of(module)
    if package is None:  # the package itself, and `python -m exporter`
        return
    for imported in filter(None, map(package_of, imports_of(path))):
        below = PACKAGE_ORDER.index(imported) > PACKAGE_ORDER.index(package)
        assert imported == package or below, f"{module} imports {imported}"


@each_file
def test_what_answers_at_once_imports_nothing_heavy(path: Path) -> None:
    if package_of(module_of(path)) in LIGHT:
        assert not {name.split(".")[0] for name in imports_of(path)} & HEAVY


@pytest.mark.parametrize(
    "folder",
    sorted({path.parent for path in FILES}),
    ids=lambda folder: str(folder.relative_to(ROOT)),
)
def test_a_folder_can_be_taken_in_at_a_glance(folder: Path) -> None:
    most = MOST_ENTRIES.get(str(folder.relative_to(ROOT)), 12)
    assert len(entries(folder)) <= most, entries(folder)


@each_file
def test_members_of_an_axis_do_not_know_each_other(path: Path) -> None:
    module = module_of(path)
    axis, _, rest = module.removeprefix("exporter.").partition(".")
    if axis not in AXES or not rest:
        return
    members = {AXES[axis].facts(name).__name__ for name in AXES[axis]}
    others = {each for each in members if module != each and not module.startswith(f"{each}.")}
    for imported in imports_of(path):
        for other in others:  # what members share knows none of them
            assert not f"{imported}.".startswith(f"{other}."), imported


@each_file
def test_only_the_command_line_and_the_search_import_the_validator(path: Path) -> None:
    if package_of(module_of(path)) not in ("cli", "tune", "validate"):
        assert not any(name.startswith("exporter.validate") for name in imports_of(path))


@each_file
def test_a_module_says_what_lives_in_it(path: Path) -> None:
    told = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert told, "no docstring"


BROUGHT_BY_TORCH = {"triton"}
"""What torch for CUDA brings; a build for a GPU looks for it first, and says how to install it."""


@each_file
def test_every_import_is_declared_by_the_extra_of_its_package(path: Path) -> None:
    package = package_of(module_of(path))
    allowed = requirements(*EXTRAS_OF.get(package or "", ()))
    for top in set(third_party(path)) - BROUGHT_BY_TORCH:
        assert distributions(top) & allowed, f"{module_of(path)} imports {top}"


def test_a_missing_package_is_told_with_an_extra_that_has_it() -> None:
    imported = {top for path in FILES for top in third_party(path)}
    for top in sorted(imported - BROUGHT_BY_TORCH):
        if not distributions(top) & requirements():
            told = str(missing_package(top)).replace("asr-exporter[", "")
            named = re.search(r"'([a-z-]+)\]'", told)
            assert named, told
            assert distributions(top) & requirements(named[1]), told


def test_an_extra_that_is_asked_for_is_told_where_it_has_the_package() -> None:
    for wanted, module in product(("build", "hub", "sign", "validate"), ("pydantic", "torch")):
        told = str(missing_package(module, wanted))
        has = distributions(module) & requirements(wanted)
        assert f"[{wanted if has else 'build'}]" in told


def requirements(*extras: str) -> set[str]:
    """Return the names of the distributions that the base and these extras ask for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {*extras} <= {*project["optional-dependencies"]}
    lines = [*project["dependencies"]]
    lines += [line for extra in extras for line in project["optional-dependencies"][extra]]
    found = set()
    for line in lines:
        if inner := re.fullmatch(r"asr-exporter\[(.+)\]", line):
            found |= requirements(*inner[1].split(","))
        else:
            found.add(_plain(re.split(r"[\[<>=,; ]", line)[0]))
    return found


def third_party(path: Path) -> set[str]:
    """Return the top-level modules of others that a file imports."""
    tops = {name.split(".")[0] for name in imports_of(path) if not ours(name)}
    return tops - sys.stdlib_module_names


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@cache
def distributions(module: str) -> frozenset[str]:
    """Return the distributions that have a top-level module; both wheels of onnxruntime."""
    found = packages_distributions().get(module, [])
    return frozenset(map(_plain, found)) | ({"onnxruntime"} & {module})
