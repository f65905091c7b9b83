"""Imports go down only: the floors of docs/design.md, read from the source without running it."""

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# A new module takes its place here; a folder stands for all that is in it.
FLOORS = {
    0: "errors hub_errors progress child source recipe machine audio artifact transcript report "
    "card cost cache archive trust configs places proof parcel drawing hub_client keys "
    "signature provenance patience durable interrupts scratch",
    1: "transfer fetch storage pickled adapter checkpoint graphs attention shared_attention job "
    "quantize tensors onnx_attention onnx_graph onnx_file families targets headers shards",
    2: "build resolve push pull overview plan runtime steps original offers rates bench figures "
    "stopwatch transcribing doctor workflow",
    3: "terminal tables command cli cli_speed cli_hub cli_sign __main__ cli_doctor cli_init",
}
FLOOR_OF = {f"exporter.{name}": floor for floor, names in FLOORS.items() for name in names.split()}
FLOOR_OF |= {"exporter": 0, "validate": 2}
HEAVY = {"torch", "transformers", "onnxruntime", "onnx", "onnxscript", "optimum", "safetensors"} | {
    "onnx_ir"
}
FILES = sorted([*ROOT.glob("exporter/**/*.py"), *ROOT.glob("validate/**/*.py")])


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


def _is_module(dotted: str) -> bool:
    path = ROOT.joinpath(*dotted.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def floor_of(module: str) -> int:
    while module not in FLOOR_OF:
        assert "." in module, f"{module} has no floor: give it one in FLOORS"
        assert module.count(".") > 1, f"{module} has no floor: give it one in FLOORS"
        module = module.rpartition(".")[0]
    return FLOOR_OF[module]


def ours(module: str) -> bool:
    return module.split(".")[0] in ("exporter", "validate")


each_file = pytest.mark.parametrize("path", FILES, ids=module_of)


@each_file
def test_imports_go_down_only(path: Path) -> None:
    module = module_of(path)
    floor = 2 if module.startswith("validate") else floor_of(module)
    for imported in filter(ours, imports_of(path)):
        below = 2 if imported.startswith("validate") else floor_of(imported)
        assert below <= floor, f"{module} (floor {floor}) imports {imported} (floor {below})"


@each_file
def test_the_lowest_floor_is_light(path: Path) -> None:
    module = module_of(path)
    if module.startswith("exporter") and floor_of(module) in (0, 3):
        assert not {name.split(".")[0] for name in imports_of(path)} & HEAVY


@each_file
def test_members_of_an_axis_do_not_know_each_other(path: Path) -> None:
    module = module_of(path)
    axis = re.fullmatch(r"exporter\.(families|targets)\.(\w+)(\..+)?", module)
    if axis is None:
        return
    own = f"exporter.{axis[1]}.{axis[2]}"
    for imported in imports_of(path):
        if imported == f"exporter.{axis[1]}" or imported.startswith(f"exporter.{axis[1]}."):
            assert imported == own or imported.startswith(f"{own}."), f"{module} knows {imported}"


@each_file
def test_only_the_command_line_imports_the_validator(path: Path) -> None:
    if module_of(path).startswith("exporter") and module_of(path) != "exporter.cli":
        assert not any(name.split(".")[0] == "validate" for name in imports_of(path))


@each_file
def test_a_module_says_what_lives_in_it(path: Path) -> None:
    told = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert told, "no docstring"


def test_every_import_is_a_declared_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {re.split(r"[\[<>=,; ]", wanted)[0] for wanted in project["dependencies"]}
    declared = {_plain(name) for name in declared}
    packages = packages_distributions()
    for path in FILES:
        for top in {name.split(".")[0] for name in imports_of(path) if not ours(name)}:
            wheels = {_plain(wheel) for wheel in packages.get(top, [])}
            assert not wheels or wheels & declared, f"{module_of(path)} imports {top}"


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
