"""What a package has in the place of libtorch, against torch: products, convolutions, functions."""

import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from exporter.families.graph import Graph
from exporter.formats import pt2
from exporter.targets.aoti import kernels
from exporter.targets.aoti.package import read_spec
from tests.targets.test_kernels import compiled, lacking, settings

_SHAPES = {
    "frames": (2, 6, 203),
    "images": (2, 4, 37, 20),
    "rows": (131, 300),
    "left": (3, 70, 130),
    "right": (3, 130, 33),
    "queries": (2, 3, 71, 24),
    "keys": (2, 3, 90, 24),
    "mask": (2, 1, 71, 90),
    "numbers": (5, 333),
}
_WEIGHTS = {
    "kernel": (10, 6, 3),
    "grouped": (12, 2, 5),
    "depthwise": (6, 1, 4),
    "first": (7, 1, 10),
    "filters": (9, 4, 3, 3),
    "linear": (150, 300),
    "bias": (150,),
}


class Operators(nn.Module):
    """Every operator that is served, in the layouts that graphs have."""

    def __init__(self) -> None:
        super().__init__()
        source = torch.Generator().manual_seed(0)
        for name, shape in _WEIGHTS.items():
            values = torch.randn(shape, generator=source) / 4
            self.register_parameter(name, nn.Parameter(values, requires_grad=False))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        frames, images, rows, left, right, queries, keys, mask, numbers = inputs
        w = dict(self.named_parameters())
        conv1d, conv2d = functional.conv1d, functional.conv2d
        turned = frames.transpose(1, 2).contiguous().transpose(1, 2)
        last = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
        attend = functional.scaled_dot_product_attention
        positive = numbers.abs() + 0.1
        return (
            conv1d(frames, w["kernel"], w["bias"][:10], stride=2, padding=1),
            conv1d(turned, w["kernel"], None, dilation=3),
            conv1d(frames, w["grouped"], w["bias"][:12], padding=2, groups=3),
            conv1d(frames, w["depthwise"], None, groups=6),
            # Samples as wav2vec 2.0 has them: torch puts the channels of the result side by side.
            conv1d(frames[:, 0, :, None].transpose(1, 2), w["first"], None, stride=5),
            conv1d(frames[0][:, None], w["first"], w["bias"][:7], stride=5),
            conv2d(images, w["filters"], w["bias"][:9], stride=(2, 1), padding=(1, 0)),
            conv2d(last, w["filters"], None, padding=1),
            functional.linear(rows, w["linear"], w["bias"]),
            functional.linear(rows[:3], w["linear"], w["bias"]),
            functional.linear(rows[:1], w["linear"]),
            rows.t() @ rows[:, :77],
            left @ right,
            left @ left.transpose(1, 2),
            attend(queries, keys, keys * 0.5),
            attend(queries, keys, keys.flip(2), mask, scale=1.0),
            attend(queries.transpose(1, 2), queries.transpose(1, 2), queries.transpose(1, 2)),
            torch.stack([numbers.exp(), numbers.sigmoid(), numbers.softmax(-1), numbers.erf()]),
            torch.stack([numbers.sin(), numbers.cos(), numbers.tanh(), numbers.expm1()]),
            torch.stack([positive.log(), positive.log2(), positive.log1p(), positive**1.7]),
        )


@pytest.mark.parametrize("name", ["x86-64-v3", "x86-64-v4"])
def test_results_are_torchs(name: str, tmp_path: Path) -> None:
    if missing := lacking(name):
        pytest.skip(f"this CPU has no {', '.join(sorted(missing))}")
    module, source = Operators(), torch.Generator().manual_seed(1)
    given = {n: torch.randn(shape, generator=source) for n, shape in _SHAPES.items()}
    wanted = module(*given.values())
    graph = Graph(
        "operators",
        module,
        {n: t.to("meta") for n, t in given.items()},
        {},
        {f"result{index}": tuple(t.shape) for index, t in enumerate(wanted)},
    )
    package = compiled(module, graph, tmp_path, settings(name))
    path = tmp_path / "operators.pt2"
    assert not read_spec(path).needs_torch
    for found, expected in zip(package(given).values(), wanted, strict=True):
        assert found.shape == expected.shape
        assert (found - expected).abs().max() <= 2e-6 * expected.abs().max() + 1e-6
    extremes = torch.tensor([-1e9, -103.5, -87.5, 0.0, 88.7, 89.5, float("inf"), float("nan")])
    given["numbers"][0, : len(extremes)] = extremes
    exponentials = package(given)["result17"][0, 0, : len(extremes)]
    torch.testing.assert_close(exponentials, extremes.exp(), equal_nan=True, rtol=3e-7, atol=2e-45)
    assert "torch" not in needed(path, tmp_path)
    assert stack_flags(path, tmp_path) == "RW"


class Convolved(nn.Module):
    """A single convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.ones(4, 3, 5), requires_grad=False)

    def forward(self, *inputs: Tensor) -> tuple[Tensor]:
        return (functional.conv1d(inputs[0], self.kernel),)


def test_what_is_missing_is_named_and_left_to_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = kernels.host_sources

    def fewer(*arguments: Any) -> tuple[Path, Path]:
        source, names = whole(*arguments)
        source.write_text(source.read_text().replace('#include "host/convolution.cpp"', ""))
        return source, names

    monkeypatch.setattr(kernels, "host_sources", fewer)
    module, given = Convolved(), torch.randn(2, 3, 30)
    inputs = {"frames": given.to("meta")}
    graph = Graph("convolved", module, inputs, {}, {"result": (2, 4, 26)})
    package = compiled(module, graph, tmp_path, settings("x86-64-v3"))
    assert read_spec(tmp_path / "convolved.pt2").needs_torch
    assert stack_flags(tmp_path / "convolved.pt2", tmp_path) == "RW"
    assert "convolved runs in torch only, for aoti_torch_cpu_convolution" in caplog.text
    torch.testing.assert_close(package({"frames": given})["result"], *module(given))


def test_kernels_are_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs share the objects of our kernels, and their own lists of weights are theirs."""
    monkeypatch.setenv("EXPORTER_CACHE", str(tmp_path / "cache"))
    sources = []

    def counted(source: Path, *arguments: Any) -> None:
        sources.append(source.name)
        compile_source(source, *arguments)

    compile_source = kernels.compile_source
    monkeypatch.setattr(kernels, "compile_source", counted)
    given = torch.randn(2, 3, 30)
    for name in ("kernel", "other"):
        module = Convolved()
        graph = Graph(name, module, {"frames": given.to("meta")}, {}, {"result": (2, 4, 26)})
        package = compiled(module, graph, tmp_path, settings("x86-64-v3"))
        torch.testing.assert_close(package({"frames": given})["result"], *module(given))
    assert sources == ["host.cpp", "weight_names.cpp", "weight_names.cpp"]


def needed(package: Path, folder: Path) -> str:
    """What the dynamic linker looks for when it loads a package's library."""
    told = readelf("-d", package, folder)
    lines = [line for line in told if "NEEDED" in line or "RUNPATH" in line]
    assert any("libgomp" in line for line in lines)
    return "\n".join(lines)


def stack_flags(package: Path, folder: Path) -> str:
    """What its library wants to do with the stack; glibc 2.41 loads none that executes it."""
    (line,) = (one for one in readelf("-lW", package, folder) if "GNU_STACK" in one)
    return line.split()[-2]


def readelf(option: str, package: Path, folder: Path) -> list[str]:
    library = folder / "graph.so"
    with zipfile.ZipFile(package) as members:
        library.write_bytes(members.read(f"{package.stem}/{pt2.LIBRARY}"))
    done = subprocess.run(["readelf", option, library], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()
