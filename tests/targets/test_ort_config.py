"""`ort_config.json` is what optimum's own tools would write for the same quantization."""

from pathlib import Path
from typing import Any, get_args

import pytest

from exporter.quantization.plan import QuantizationPlan
from exporter.quantization.schemes.dynamic_int8 import Scheme as DynamicInt8
from exporter.quantization.schemes.weight_int8 import Scheme as WeightInt8
from exporter.targets.onnx import OPSET, Preset
from exporter.targets.onnx.options import Options
from exporter.targets.onnx.ort_config import ORT_CONFIG, ort_config
from tests.support.plans import FLOAT, INT8

ROUGH = DynamicInt8(bits=7, per_channel=False)
PLANS = {
    "int8": QuantizationPlan({"encoder.fc1": INT8, "lm_head": FLOAT}),
    "7 bits": QuantizationPlan({"encoder.fc1": ROUGH}),
    "mixed": QuantizationPlan({"encoder.fc1": ROUGH, "encoder.fc2": INT8, "out": WeightInt8()}),
    "none": QuantizationPlan({"encoder.fc1": FLOAT, "out": WeightInt8()}),
}


def optimums(preset: str, plan: QuantizationPlan, folder: Path) -> str:
    """What `ORTConfig` saves."""
    from optimum.onnxruntime import AutoQuantizationConfig, ORTConfig

    schemes = [one for one in plan.modules.values() if isinstance(one, DynamicInt8)]
    how: dict[str, Any] = {}
    if schemes:
        own = getattr(AutoQuantizationConfig, preset)(
            is_static=False,
            per_channel=all(one.per_channel for one in schemes),
            operators_to_quantize=["MatMul", "Gemm"],
            nodes_to_exclude=[name for name, one in plan.modules.items() if one == FLOAT],
        )
        own.reduce_range = all(one.bits == 7 for one in schemes)
        how["quantization"] = own
    ORTConfig(opset=OPSET, **how).save_pretrained(folder)
    return (folder / ORT_CONFIG).read_text()


@pytest.mark.optimum
@pytest.mark.parametrize("preset", get_args(Preset))
@pytest.mark.parametrize("plan", PLANS)
def test_it_has_the_bytes_of_optimums_own(plan: str, preset: Preset, tmp_path: Path) -> None:
    ours = ort_config(Options(preset=preset), PLANS[plan])
    assert ours == optimums(preset, PLANS[plan], tmp_path)
