"""The same recipe gives the same bytes, wherever, whenever and whoever builds it."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.support.surroundings import Surroundings, furnished, sealed

KINDS = ("onnx-int8", "torch-int8", "aoti")


def another(folder: Path, number: int, umask: int, **variables: str) -> Surroundings:
    """Another home, temporary folder, cache, user and hash seed; nothing is shared."""
    for name in ("home", "tmp"):
        (folder / name).mkdir(parents=True)
    own = {"HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp")}
    own |= {"EXPORTER_CACHE": str(folder / "cache"), "EXPORTER_STATE": str(folder / "state")}
    own |= {"PYTHONHASHSEED": str(number), "USER": f"user{number}", "LOGNAME": f"user{number}"}
    return Surroundings({**own, **variables}, before=partial(os.umask, umask))


def test_two_builds_give_the_same_bytes(
    tiny_whisper: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    later = {"SOURCE_DATE_EPOCH": "1830000000", "TZ": "Asia/Kathmandu", "LC_ALL": "tr_TR.UTF-8"}
    ways = {
        "one": another(tmp_path / "a", 1, 0o022, TZ="UTC", LC_ALL="C.UTF-8"),
        "another of a longer name": another(tmp_path / "b" / "deeper", 2, 0o077, **later),
    }
    found = []
    for name, way in ways.items():
        place = furnished(tmp_path / name, tiny_whisper, *KINDS)
        done = way.run(place, "build", "tiny.yaml")
        assert done.returncode == 0, done.stderr
        found.append(sealed(place / "artifacts"))
    one, two = found
    assert one.keys() == set(KINDS)
    assert one == two
    record_property("promise", "P8")
    record_property("cases", len(KINDS))
    files = sum(len(each) - 1 for each in one.values())
    record_property("measured", f"{files} files of {len(KINDS)} artifacts and the keys are equal")
