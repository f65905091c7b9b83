"""What opening reads of a manifest: the same as pydantic's reader, and nothing that it refuses."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exporter.artifact import store
from exporter.errors import IntegrityError
from exporter.runtime.manifest import MANIFEST, parse
from exporter.system.accelerators import GpuNeeds
from tests.support.golden import GOLDEN

ARTIFACTS = sorted(path.parent.name for path in GOLDEN.glob("*/manifest.json"))


@pytest.mark.parametrize("name", ARTIFACTS)
def test_both_readers_agree(name: str) -> None:
    content = (GOLDEN / name / MANIFEST).read_bytes()
    ours, whole = parse(content), store.whole(content)
    for key in ("name", "kind", "family", "threads", "digest", "size_bytes", "decoding"):
        assert getattr(ours, key) == getattr(whole, key)
    assert ours.recipe == whole.recipe.name
    for key in ("cpu_features", "packages", "device"):
        assert getattr(ours.needs, key) == getattr(whole.needs, key)
    assert ours.needs.gpu is whole.needs.gpu is None
    assert [vars(each) for each in ours.files] == [each.model_dump() for each in whole.files]


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    values = json.loads((GOLDEN / "v1-onnx-int8" / MANIFEST).read_bytes())
    change(values)
    return json.dumps(values, indent=1, sort_keys=True).encode() + b"\n"


GPU = {"capability": "9.0", "match": "exact", "cuda": "13.0", "memory_bytes": 5}


def with_gpu(**changes: object) -> Callable[[dict[str, Any]], object]:
    """Needs of a card, with changes; a value of None is left out."""
    gpu = {name: value for name, value in {**GPU, **changes}.items() if value is not None}
    return lambda m: m["needs"].update(device="cuda", gpu=gpu)


def test_both_readers_agree_on_a_gpu() -> None:
    content = changed(with_gpu(capability="12.1", match="major"))
    ours, whole = parse(content), store.whole(content)
    assert whole.canonical() == content
    assert whole.needs.gpu is not None
    assert ours.needs.gpu == whole.needs.gpu.as_needs()
    assert ours.needs.gpu == GpuNeeds((12, 1), "major", (13, 0), 5)


WRONG: dict[str, Callable[[dict[str, Any]], object]] = {
    "unknown": lambda m: m.update(surprise=1),
    "unknown inside": lambda m: m["needs"].update(surprise=1),
    "missing": lambda m: m.pop("kind"),
    "a newer form": lambda m: m.update(schema_version=2),
    "a truth for a number": lambda m: m.update(schema_version=True),
    "no text": lambda m: m.update(name=3),
    "a long text": lambda m: m.update(name="a" * 4097),
    "half a letter": lambda m: m.update(name="\ud800"),
    "no threads": lambda m: m["options"].update(threads="2"),
    "no hash": lambda m: m["files"][0].update(sha256="0"),
    "less than no bytes": lambda m: m["files"][0].update(size_bytes=-1),
    "a file with more": lambda m: m["files"][0].update(mode=7),
    "packages that are a text": lambda m: m["needs"].update(packages="onnxruntime"),
    "the usual device": lambda m: m["needs"].update(device="cpu"),
    "an empty field": lambda m: m.update(choices={}),
    "a card without its device": lambda m: m["needs"].update(gpu=GPU),
    "a card for a CPU": lambda m: m["needs"].update(gpu=GPU, device="cpu"),
    "a card for another device": lambda m: m["needs"].update(gpu=GPU, device="tpu"),
    "a device without its card": lambda m: m["needs"].update(device="cuda"),
    "no card": lambda m: m["needs"].update(gpu=None),
    "a card that is a text": lambda m: m["needs"].update(device="cuda", gpu="9.0"),
    "a card with more": with_gpu(surprise=1),
    "a card with less": with_gpu(cuda=None),
    "a capability that is a number": with_gpu(capability=9.0),
    "a capability with a letter": with_gpu(capability="9.0a"),
    "a capability with a line": with_gpu(capability="9.0\n"),
    "a capability of other digits": with_gpu(capability="\u0669.0"),
    "a version of three numbers": with_gpu(cuda="13.0.1"),
    "an unknown match": with_gpu(match="most"),
    "a match that is a list": with_gpu(match=["exact"]),
    "no memory": with_gpu(memory_bytes=0),
    "half a byte": with_gpu(memory_bytes=0.5),
    "an endless number": lambda m: m["build"].update(seconds=float("inf")),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_one_reader_refuses_the_other_does(name: str) -> None:
    content = changed(WRONG[name])
    for read in (parse, store.whole):
        with pytest.raises(ValueError, match=r"."):
            read(content)


def test_another_form_of_the_same_is_refused(tmp_path: Path) -> None:
    content = (GOLDEN / "v1-onnx-int8" / MANIFEST).read_bytes()
    for other in (content[:-1], b" " + content, content.replace(b'"kind"', b'"k\\u0069nd"')):
        (tmp_path / MANIFEST).write_bytes(other)
        for read in (store.read_sealed, store.read_manifest):
            with pytest.raises(IntegrityError, match="was edited after the build"):
                read(tmp_path)
    for other in (b"", b"[]", b"[" * 100_000, b"\xff", b'{"files": NaN}'):
        (tmp_path / MANIFEST).write_bytes(other)
        for read in (store.read_sealed, store.read_manifest):
            with pytest.raises(IntegrityError, match="cannot be read"):
                read(tmp_path)


CHECK = """
import sys
from pathlib import Path
from exporter.artifact import trust
with trust.opening(Path(sys.argv[1]), trust=False) as manifest:
    pass
print(manifest.kind, *{"pydantic", "ruamel", "numpy", "torch"} & set(sys.modules))
"""


def test_an_artifact_is_checked_without_pydantic() -> None:
    command = [sys.executable, "-c", CHECK, str(GOLDEN / "v1-onnx-int8")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("onnx-int8\n", "")
