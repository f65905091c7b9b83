"""A compiled graph on numpy arrays, where no torch is: what it computes, and what it refuses."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from exporter.errors import IntegrityError, MachineError
from exporter.formats import pt2
from exporter.runtime.aoti import library
from exporter.runtime.aoti.package import Array, Package, open_packages
from exporter.runtime.aoti.weights import Weights
from tests.targets.test_aoti import PLACE, Built, built, inputs_of, pytestmark

__all__ = ["built", "pytestmark"]

Change = dict[str, object]


def arrays(batch: int) -> dict[str, Array]:
    return {name: tensor.numpy().copy() for name, tensor in inputs_of(batch).items()}


def opened(folder: Path, threads: int = 1) -> Package:
    packages = {"step.pt2": (folder / "step.pt2").read_bytes()}
    return open_packages(folder, packages, threads)["step"]


FRESH = """
import hashlib, sys
from pathlib import Path
import numpy as np
from exporter.runtime.aoti.package import open_packages
folder = Path(sys.argv[1])
package = open_packages(folder, {"step.pt2": (folder / "step.pt2").read_bytes()}, 1)["step"]
inputs = dict(np.load(sys.argv[2]))
print(hashlib.sha256(package(inputs)["logits"].tobytes()).hexdigest())
print({name.partition(".")[0] for name in sys.modules} & set(sys.argv[3:]))
"""
ABSENT = ("torch", "safetensors", "pydantic", "transformers", "onnx", "onnxruntime")


def test_a_process_without_torch_computes_the_same_bits(
    built: Built, tmp_path: Path, repository: Path
) -> None:
    run, _ = built.load()
    expected = run(inputs_of(3))["logits"].numpy()
    np.savez(tmp_path / "inputs.npz", **arrays(3))
    done = subprocess.run(
        [sys.executable, "-c", FRESH, built.folder, tmp_path / "inputs.npz", *ABSENT],
        env={**os.environ, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    digest, modules = done.stdout.splitlines()
    assert digest == hashlib.sha256(expected.tobytes()).hexdigest()
    assert modules == "set()"


def test_caches_are_written_in_place_and_bound_inputs_are_read_anew(built: Built) -> None:
    package, run = opened(built.folder), built.load()[0]
    given, expected = arrays(2), inputs_of(2)
    bound = package.bind(given)
    for token in (3, 17):
        given["input_ids"][:] = token
        expected["input_ids"][:] = token
        logits = package(bound)["logits"]
        assert np.array_equal(logits, run(expected)["logits"].numpy())
        assert np.array_equal(given["cache"], expected["cache"].numpy())
    assert given["cache"][:, PLACE].any()


def test_results_outlive_the_package(built: Built) -> None:
    package = opened(built.folder)
    logits = package(package.bind(arrays(2), ["logits"]))["logits"]
    kept = logits.copy()
    del package
    assert np.array_equal(logits, kept)
    logits += 1  # they are the caller's


def test_the_number_of_threads_is_the_packages(built: Built) -> None:
    before = torch.get_num_threads()
    one, three = (opened(built.folder, threads)(arrays(8))["logits"] for threads in (1, 3))
    assert np.allclose(one, three, rtol=1e-6)
    assert torch.get_num_threads() == before


def test_a_fork_runs_it_too(built: Built) -> None:
    """OpenMP's threads are not those of a fork, which would wait for them for ever."""
    package = opened(built.folder, threads=2)
    expected = package(arrays(8))["logits"]
    child = os.fork()
    if child == 0:
        same = np.array_equal(package(arrays(8))["logits"], expected)
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_inputs_that_do_not_fit_are_refused(built: Built) -> None:
    package, good = opened(built.folder), arrays(2)
    cut = np.zeros((2, *good["cache"].shape[1:-1], 2 * good["cache"].shape[-1]), np.float32)
    wrong = {
        "takes": {name: good[name] for name in ("input_ids", "cache")},
        "input_features must be float32": {
            **good,
            "input_features": good["input_features"][:, :, :-1],
        },
        "input_ids must be int64": {**good, "input_ids": good["input_ids"][:1]},
        "it is float64": {**good, "cache": good["cache"].astype(np.float64)},
        "cache must be float32": {**good, "cache": cut[:, :, ::2]},
    }
    for words, inputs in wrong.items():
        with pytest.raises(ValueError, match=words):
            package(inputs)
    converted = {**good, "input_features": good["input_features"].astype(np.float64)}
    assert np.array_equal(package(converted)["logits"], package(arrays(2))["logits"])


def changed(package: Path, place: Path, **values: object) -> Path:
    """Copy an artifact with other values in its package's description."""
    shutil.copytree(package.parent, place)
    with zipfile.ZipFile(package) as old, zipfile.ZipFile(place / package.name, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            if info.filename.endswith(pt2.SPEC):
                data = json.dumps({**json.loads(data), **values}).encode()
            new.writestr(info, data)
    return place


def test_a_package_that_calls_torch_is_refused(built: Built, tmp_path: Path) -> None:
    folder = changed(built.folder / "step.pt2", tmp_path / "copy", needs_torch=True)
    with pytest.raises(MachineError, match="compiled to run in torch"):
        opened(folder)


def test_a_library_that_tells_to_have_the_interface_must_have_it(
    built: Built, tmp_path: Path
) -> None:
    shutil.copytree(built.folder, tmp_path / "copy")
    with zipfile.ZipFile(built.folder / "step.pt2") as old:
        members = [(info, old.read(info)) for info in old.infolist()]
    with zipfile.ZipFile(tmp_path / "copy" / "step.pt2", "w") as new:
        for info, data in members:
            new.writestr(info, b"x" if info.filename.endswith(pt2.LIBRARY) else data)
    with pytest.raises(MachineError, match=r"step\.pt2 cannot be loaded on this machine"):
        opened(tmp_path / "copy")


def test_bytes_that_are_no_package_are_refused(built: Built) -> None:
    data = (built.folder / "step.pt2").read_bytes()
    for damaged in (b"", data[:-1], data + b"x"):
        with pytest.raises(IntegrityError, match="nothing was opened"):
            open_packages(built.folder, {"step.pt2": damaged}, 1)


def test_weights_that_do_not_fit_are_refused(built: Built, tmp_path: Path) -> None:
    with zipfile.ZipFile(built.folder / "step.pt2") as package:
        told = json.loads(package.read(f"step/{pt2.SPEC}"))["constants"]
    name = next(iter(told))
    other = {**told, name: {**told[name], "shape": [3]}}
    folder = changed(built.folder / "step.pt2", tmp_path / "other", constants=other)
    with pytest.raises(IntegrityError, match=f"weight {told[name]['name']} must be .* \\[3\\]"):
        opened(folder)
    fewer = {own: told[own] for own in [*told][1:]}
    folder = changed(built.folder / "step.pt2", tmp_path / "fewer", constants=fewer)
    with pytest.raises(IntegrityError, match="compiled for other weights"):
        opened(folder)


def safetensors(header: object, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def tensor(dtype: str, shape: object, *offsets: object) -> dict[str, Change]:
    return {"x": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        (1 << 40).to_bytes(8, "little") + b"{}",
        safetensors([]),
        safetensors(tensor("F32", [2], 0, 8), b"1234567"),
        safetensors(tensor("F32", [2], 0, 4), b"1234"),
        safetensors(tensor("F32", [-2], 0, 8), b"12345678"),
        safetensors(tensor("F32", [1], -4, 0)),
        safetensors(tensor("F9", [1], 0, 4), b"1234"),
        safetensors(tensor("F32", ["1"], 0, 4), b"1234"),
        safetensors(tensor("F32", [1], 0), b"1234"),
        safetensors({"x": 1}),
    ],
)
def test_damaged_weights_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"weights\.safetensors is damaged"):
        Weights(path)


def test_weights_are_those_that_the_library_reads(built: Built) -> None:
    from safetensors.torch import load_file

    path = built.folder / "weights.safetensors"
    mapped = Weights(path)
    for name, expected in load_file(path).items():
        found = mapped.get(name)
        assert found is not None
        dtype, values = found
        assert dtype == str(expected.dtype).removeprefix("torch.")
        assert np.array_equal(values, expected.numpy())
    assert mapped.get("no weight") is None


def test_a_machine_without_openmp_is_told_how_to_get_it(
    built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(_path: str) -> None:
        msg = "libgomp.so.1: cannot open shared object file: No such file or directory"
        raise OSError(msg)

    monkeypatch.setattr(library.ctypes, "CDLL", absent)
    with pytest.raises(MachineError, match=r"libgomp\.so\.1.*\n.*apt install libgomp1"):
        opened(built.folder)
