"""Graphs of strangers have a time and a memory, in the processes that run them."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.errors import ExporterError, IntegrityError, ResourceError
from exporter.system import worker
from tests.support import endless
from tests.support.golden import GOLDEN

GRAPHS: dict[str, tuple[Callable[[], bytes], type[ExporterError]]] = {
    "endless": (endless.endless, IntegrityError),
    "huge": (endless.huge, ResourceError),
    "huge at once": (endless.huge_at_once, ResourceError),
}


@pytest.mark.parametrize("case", GRAPHS)
def test_a_graph_without_bounds_ends(case: str, tmp_path: Path) -> None:
    make, error = GRAPHS[case]
    path = tmp_path / "graph.onnx"
    path.write_bytes(make())
    with pytest.raises(error) as caught:
        worker.run(
            "tests.support.endless:run", {"graph": str(path)}, lambda *_: None, what="a graph"
        )
    assert len(str(caught.value).splitlines()) <= 3


FRESH = """
import sys
import exporter
import numpy as np
recogniser = exporter.load(sys.argv[1])
recogniser.decode([np.zeros(1600, np.float32)])
print(*sorted({"onnx", "onnx_ir", "onnxruntime", "onnxscript", "optimum"} & sys.modules.keys()))
"""


@pytest.mark.parametrize(("kind", "imported"), [("torch-int8", ""), ("onnx-int8", "onnxruntime")])
def test_a_kind_imports_its_own_runtime_alone(
    kind: str, imported: str, repository: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(GOLDEN / f"v1-{kind}", tmp_path / kind)
    done = subprocess.run(
        [sys.executable, "-c", FRESH, folder],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == [imported], done.stderr
