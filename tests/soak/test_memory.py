"""Memory of builds and validations: within what is promised, and about as estimated."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exporter.system.progress import shown_bytes
from tests.support.surroundings import Surroundings, furnished
from tests.support.tiny import make_whisper

GIB = 1 << 30
KINDS = ("onnx-int8", "torch-int8", "aoti")
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {},
    "30 million": {
        "width": 512, "heads": 8, "encoder_layers": 4, "decoder_layers": 4, "window_s": 8,
    },
}  # fmt: skip
# Runs a command and tells the most memory that any process of it held.
METER = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10, file=sys.stderr)
sys.exit(code)
"""


def metered(place: Path, *arguments: str) -> tuple[dict[str, Any], int]:
    """Run a command; give its answer and the memory of its largest process."""
    done = Surroundings(around=(sys.executable, "-c", METER)).run(place, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), int(done.stderr.split()[-1])


@pytest.mark.parametrize("shape", SHAPES)
def test_what_a_build_and_a_validation_hold(
    shape: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    checkpoint = make_whisper(tmp_path / "made", **SHAPES[shape])
    size = (checkpoint / "model.safetensors").stat().st_size
    place = furnished(tmp_path / "place", checkpoint, *KINDS)
    measured = []
    for kind in KINDS:
        built, build = metered(place, "build", "tiny.yaml", "--target", kind)
        (row,) = built["artifacts"]
        _, validation = metered(place, "validate", row["path"])
        assert build <= 2.2 * size + 1.5 * GIB
        assert validation <= row["size_bytes"] + 1.5 * GIB
        estimated, seen = (row[what]["peak_rss_bytes"] for what in ("predicted", "measured"))
        assert seen <= 1.3 * estimated
        held = f"build {shown_bytes(build)}, validation {shown_bytes(validation)}"
        measured.append(f"{kind}: {held}, build step {seen / estimated:.2f} of the estimate")
    record_property("promise", "P20")
    record_property("cases", 2 * len(KINDS))
    record_property("measured", f"{shape}, {shown_bytes(size)}: {'; '.join(measured)}")
