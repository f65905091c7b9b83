"""A copy of the product with a second family: one file more, and one line in the registry."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

_LINE = '"letters": "exporter.families.letters"'
_PRODUCT = ("exporter", "validate")  # the first holds a link to the second


def copy_product(repository: Path, folder: Path) -> Path:
    """Copy the product's packages and add `tests.support.letters_family`; return the folder."""
    for package in _PRODUCT:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(repository / package, folder / package, symlinks=True, ignore=ignored)
    families = folder / "exporter" / "families"
    shutil.copyfile(repository / "tests" / "support" / "letters_family.py", families / "letters.py")
    registry = families / "__init__.py"
    text = registry.read_text(encoding="utf-8")
    line = '"whisper": "exporter.families.whisper"'
    assert text.count(line) == 1
    registry.write_text(text.replace(line, f"{line}, {_LINE}"), encoding="utf-8")
    return folder


def changes(repository: Path, folder: Path) -> set[str]:
    """The files of a copy that the product does not have, or has otherwise."""
    changed = set()
    for package in _PRODUCT:
        for path in (folder / package).rglob("*"):
            name = path.relative_to(folder)
            ours = repository / name
            if path.is_file() and "__pycache__" not in name.parts:
                same = ours.is_file() and ours.read_bytes() == path.read_bytes()
                changed |= set() if same else {str(name)}
    return changed


def run(product: Path, *line: object) -> dict[str, Any]:
    """Run a command of the copy with `--json`; its exit code, errors, and what it printed."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "exporter", *map(str, line), "--json"],
        env={**os.environ, "PYTHONPATH": str(product)},
        cwd=product,
        capture_output=True,
        text=True,
        check=False,
    )
    told = json.loads(done.stdout) if done.stdout.startswith("{") else {}
    return {"exit_code": done.returncode, "stderr": done.stderr, **told}
