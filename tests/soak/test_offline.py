"""Nothing is fetched, asked or told: builds and their judgement without a network."""

from collections.abc import Callable
from pathlib import Path

from tests.support.offline import listener
from tests.support.surroundings import Surroundings, furnished, sealed

KINDS = ("onnx-int8", "torch-int8", "aoti")
ALONE = ("unshare", "--map-root-user", "--net", "--")


def test_a_build_and_its_judgement_call_nobody(
    tiny_whisper: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    place = furnished(tmp_path / "place", tiny_whisper, *KINDS)
    noted, heard = listener(tmp_path)
    unset = dict.fromkeys(("ORT_DISABLE_TELEMETRY", "HF_HUB_OFFLINE", "CI"))
    offline = Surroundings({**heard, **unset}, around=ALONE)
    for command in (["build", "tiny.yaml"], ["validate", "artifacts/tiny"]):
        done = offline.run(place, *command)
        assert done.returncode == 0, done.stderr
    assert sealed(place / "artifacts").keys() == set(KINDS)
    assert noted.read_text() == ""
    record_property("promise", "P14")
    record_property("cases", 2 * len(KINDS))
    record_property("measured", "0 calls, in a namespace without a network")
