"""An artifact against itself, two hundred times, half of them beside other work.

The gate's own measuring and judging, but that all that are measured alone share this process.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest
import soundfile

from exporter.artifact.report import Check
from exporter.formats.clips import Clip
from exporter.recipe import Decoding, Gate
from exporter.system.progress import silent
from exporter.validate.gate import judge as judging
from exporter.validate.gate.latency import Times, too_slow
from exporter.validate.measure.latency import (
    Measurement,
    Request,
    Seconds,
    measure,
    remeasure_if_slow,
    time_interleaved,
)
from exporter.validate.measure.model import ModelSpec
from tests.support.golden import GOLDEN
from tests.support.judging import comparison, output

pytestmark = pytest.mark.alone
CASES = 100
# Works and rests by turns, as other people's programs do.
HOG = """
import random, time
chance = random.Random(0)
while True:
    end = time.monotonic() + chance.uniform(0.05, 0.4)
    while time.monotonic() < end:
        pass
    time.sleep(chance.uniform(0.05, 0.4))
"""


def comparisons(folder: Path, recordings: tuple[Path, ...], count: int) -> list[Check]:
    """Measure `count` pairs, and judge each: as the gate does."""
    spec = ModelSpec(model=folder, original=False, threads=1, decoding=Decoding())
    request = Request(spec=spec, clips=recordings, shapes=recordings[:3], repeat_s=0.2)
    plain = request.model_dump(mode="json")

    def slow(*sides: Measurement) -> bool:
        ours, theirs = (np.array(side.seconds) for side in sides)
        return too_slow(Times(np.ones(len(ours)), ours, theirs), 1.0)

    def in_turns() -> list[Seconds]:
        return time_interleaved([request, request], "artifact", silent)

    def pair() -> Check:
        alone = _measured(plain), _measured(plain)
        return _judged(*remeasure_if_slow(*alone, slow, in_turns))

    return [pair() for _ in range(count)]


def _measured(request: dict[str, object]) -> Measurement:
    answer = measure(request, silent)
    return Measurement.model_validate(answer["measurement"])


def _judged(one: Measurement, other: Measurement) -> Check:
    clips = [Clip(str(n), Path(), "one", None, 1.0) for n in range(len(one.seconds))]
    ours, theirs = (output(["one"] * len(clips), each) for each in (one, other))
    gate = Gate(max_wer_increase=1, max_latency_ratio=1.0, min_clips=1)
    checks = judging.judge(comparison(clips, ours, theirs), gate, files=1).checks
    return next(check for check in checks if check.name == "latency")


@contextmanager
def beside_a_hog() -> Iterator[None]:
    """Another program takes a core now and then."""
    with subprocess.Popen([sys.executable, "-c", HOG]) as hog:
        try:
            yield
        finally:
            hog.kill()


@pytest.fixture(scope="module")
def alike(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[Path, ...]]:
    """An artifact, and recordings for it."""
    folder = tmp_path_factory.mktemp("alike")
    artifact = Path(shutil.copytree(GOLDEN / "v1-torch-int8", folder / "artifact"))
    source = np.random.default_rng(0)
    recordings = tuple(folder / f"{number}.wav" for number in range(32))
    for path in recordings:
        length = int(16_000 * source.uniform(0.3, 0.9))
        soundfile.write(path, source.normal(0, 0.1, length), 16_000)
    return artifact, recordings


@pytest.mark.parametrize("beside", ["nothing", "a hog"])
def test_hardly_any_false_alarm(
    beside: str,
    alike: tuple[Path, tuple[Path, ...]],
    record_property: Callable[[str, object], None],
) -> None:
    with beside_a_hog() if beside == "a hog" else nullcontext():
        told = [check.passed for check in comparisons(*alike, CASES)]
    assert told.count(False) <= 0.01 * CASES
    record_property("promise", "P19")
    record_property("cases", CASES)
    alarms = f"{told.count(False)} false alarms, {told.count(None)} too close to tell"
    record_property("measured", f"beside {beside}: {alarms}")
