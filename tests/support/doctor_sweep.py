"""Models damaged at random, and what the doctor makes of them."""

import json
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from exporter import doctor
from exporter.doctor import Diagnosis
from tests.support.hostile import (
    beside_a_graph,
    in_a_branch,
    ours,
    stored,
    zipped,
)

WEIGHTS, GRAPH = "model.safetensors", "encoder_model.onnx"


@contextmanager
def copy_of(folder: Path, place: Path) -> Iterator[Path]:
    yield Path(shutil.copytree(folder, place, symlinks=True))
    shutil.rmtree(place)


def looked_at(folder: Path) -> Diagnosis:
    """What is found, in words that a terminal shows; nothing has run."""
    found = doctor.examine(str(folder))
    for _, finding in found.found:
        told = f"{finding.where}{finding.what}{finding.fix}"
        assert told.isprintable()
        assert len(told) < 3000
    assert json.dumps(found.as_row())
    assert not list(Path().rglob("canary"))
    return found


def damage(data: bytes, source: random.Random) -> bytes:
    """Some bits flipped, a piece cut out, doubled, or everything after a place lost."""
    changed = bytearray(data)
    reach = source.choice((len(data), min(len(data), 20_000)))  # structure comes before weights
    for _ in range(source.choice((1, 1, 8, 64))):
        changed[source.randrange(reach)] ^= 1 << source.randrange(8)
    first = source.randrange(reach)
    last = min(len(changed), first + source.randrange(1, 4096))
    how = source.randrange(4)
    if how == 0:
        del changed[first:]
    elif how == 1:
        del changed[first:last]
    elif how == 2:
        changed[first:first] = changed[first:last]
    return bytes(changed)


def sweep(model: Path, place: Path, count: int) -> None:
    """Examine a model with one file damaged, `count` times: it always ends in a diagnosis."""
    source = random.Random(0)
    with copy_of(model, place) as folder:
        names = sorted(path.name for path in folder.iterdir())
        for _ in range(count):
            path = folder / source.choice(names)
            whole = path.read_bytes()
            path.write_bytes(damage(whole, source))
            looked_at(folder)
            path.write_bytes(whole)


def damageable(checkpoint: Path, place: Path) -> Path:
    """A model with everything in it that is parsed: weights, a graph, a package, a pickle."""
    import torch

    folder = Path(shutil.copytree(checkpoint, place))
    told = stored([("location", "data"), ("offset", "0"), ("length", "8")])
    (folder / "data").write_bytes(bytes(8))
    (folder / GRAPH).write_bytes(in_a_branch(told).SerializeToString())
    (folder / "decoder_model.onnx").write_bytes(beside_a_graph(told).SerializeToString())
    (folder / "encoder.pt2").write_bytes(zipped(ours()))
    torch.save({"x": torch.zeros(3)}, folder / "pytorch_model.bin")
    return folder
