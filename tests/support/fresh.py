"""An environment in which only one extra of our wheel is installed, made without a network."""

import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, PathDistribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
_VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"


def wheel(place: Path) -> Path:
    """Build our wheel into a folder."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(place)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = place.glob("*.whl")
    return path


def environment(place: Path, ours: Path, *extras: str) -> Path:
    """Install a wheel with extras into a new environment; return its interpreter.

    It has links to this environment's packages: those that the wheel asks for, those that they ask
    for, and no others.
    """
    venv.create(place, symlinks=True)
    site = place / "lib" / _VERSION / "site-packages"
    zipfile.ZipFile(ours).extractall(site)
    (metadata,) = site.glob("*.dist-info")
    for each in _closure(PathDistribution(metadata), extras):
        for name in {path.parts[0] for path in each.files or () if ".." not in path.parts}:
            target = Path(str(each.locate_file(name)))
            if target.exists() and name != "__pycache__" and not (site / name).exists():
                (site / name).symlink_to(target)
    return place / "bin" / "python"


def installed_onnxruntime() -> str:
    """Return the extra whose wheel of onnxruntime is installed here."""
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            return distribution(name).metadata["Name"]
        except PackageNotFoundError:
            continue
    msg = "neither wheel of onnxruntime is installed"
    raise PackageNotFoundError(msg)


def _closure(ours: Distribution, extras: Iterable[str]) -> list[Distribution]:
    """Return what a distribution with extras asks for, directly or through others."""
    found: dict[tuple[str, str], Distribution] = {}
    left = [(ours, extra) for extra in ("", *extras)]
    while left:
        asking, extra = left.pop()
        for line in asking.requires or ():
            wanted = Requirement(line)
            if wanted.marker and not wanted.marker.evaluate({"extra": extra}):
                continue
            for inner in ("", *wanted.extras):
                own = wanted.name == ours.metadata["Name"]
                one = ours if own else distribution(wanted.name)
                if (wanted.name, inner) not in found:
                    found[wanted.name, inner] = one
                    left.append((one, inner))
    return [one for one in found.values() if one is not ours]
