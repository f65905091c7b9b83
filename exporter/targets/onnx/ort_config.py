"""`ort_config.json`: the quantization in optimum's format, for its tools.

Source: `ORTConfig` and `QuantizationConfig` of optimum-onnx 0.1, which need not be installed.
"""

import json
from typing import Any

from exporter.quantization.plan import QuantizationPlan
from exporter.quantization.schemes.dynamic_int8 import Scheme as DynamicInt8
from exporter.targets.onnx import OPSET
from exporter.targets.onnx.options import _UNSIGNED_PRESETS, Options

ORT_CONFIG, ORT_CONFIG_BYTES = "ort_config.json", 700


def ort_config(options: Options, plan: QuantizationPlan) -> str:
    """Return the file's text.

    It has one setting for all modules; differences between them are in the manifest only.
    """
    content = {
        "one_external_file": True,
        "opset": OPSET,
        "optimization": {},
        "quantization": _quantization(options, plan),
        "use_external_data_format": False,
    }
    return json.dumps(content, indent=2) + "\n"


def _quantization(options: Options, plan: QuantizationPlan) -> dict[str, Any]:
    schemes = [scheme for scheme in plan.quantized.values() if isinstance(scheme, DynamicInt8)]
    if not schemes:
        return {}
    return {
        "activations_dtype": "QUInt8",
        "activations_symmetric": False,
        "format": "QOperator",
        "is_static": False,
        "mode": "IntegerOps",
        "nodes_to_exclude": [name for name in plan.modules if name not in plan.quantized],
        "nodes_to_quantize": [],
        "operators_to_quantize": ["MatMul", "Gemm"],
        "per_channel": all(scheme.per_channel for scheme in schemes),
        "qdq_add_pair_to_weight": False,
        "qdq_dedicated_pair": False,
        "qdq_op_type_per_channel_support_to_axis": {"MatMul": 1},
        "reduce_range": all(scheme.bits == 7 for scheme in schemes),
        "weights_dtype": "QUInt8" if options.preset in _UNSIGNED_PRESETS else "QInt8",
        "weights_symmetric": True,
    }
