"""File names and folders of graphs, for optimum or for transformers.js.

transformers.js loads graphs from `onnx/` and takes their precision from their names (`_quantized`
is its q8, no suffix its fp32). It fetches external data only if `config.json` says that there is
some: `utils/dtypes.js`, `utils/model-loader.js` and `models/session.js` of its release 4.3.1.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from exporter.runtime.onnx import QUANTIZED

Layout = Literal["optimum", "transformers.js"]

CONFIG = "config.json"
_FOLDER = "onnx"


@dataclass(frozen=True)
class Named:
    """A graph's name, its file inside the artifact, and its dtype in transformers.js."""

    graph: str
    path: PurePosixPath
    dtype: Literal["q8", "fp32"]


def named(layout: Layout, graph: str, *, int8: bool) -> Named:
    """Return a graph's file and dtype; weights in 16 bits count as fp32, in which they compute."""
    if layout == "optimum":
        path = PurePosixPath(f"{graph}.onnx")
    else:
        path = PurePosixPath(_FOLDER, f"{graph}{QUANTIZED if int8 else ''}.onnx")
    return Named(graph, path, "q8" if int8 else "fp32")


def config_text(config: Mapping[str, Any], graphs: Iterable[Named]) -> str:
    """Return a checkpoint's config, as JSON, with the entries about graphs for transformers.js."""
    dtypes = {each.graph: each.dtype for each in graphs}
    alike = len(set(dtypes.values())) == 1
    entry = {
        "dtype": next(iter(dtypes.values())) if alike else dtypes,
        "use_external_data_format": {each.path.name: 1 for each in graphs},
    }
    return json.dumps({**config, "transformers.js_config": entry}, indent=2) + "\n"
