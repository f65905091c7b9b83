"""Quantization plans of models, as a build resolves them."""

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.families import FAMILIES
from exporter.quantization.plan import QuantizationPlan, match_rules, plan_of, shared_tables
from exporter.quantization.schemes.base import QuantizationScheme
from exporter.quantization.schemes.dynamic_int8 import Scheme as DynamicInt8
from exporter.quantization.schemes.float import Scheme as Float

INT8, FLOAT = DynamicInt8(), Float()
WHISPER = FAMILIES["whisper"]


def plan_for(
    model: nn.Module,
    default: QuantizationScheme = INT8,
    patterns: Mapping[str, QuantizationScheme] | None = None,
    head: str = WHISPER.HEAD,
    shared: Mapping[str, str] | None = None,
) -> QuantizationPlan:
    """The plan of a model."""
    return plan_of(match_rules(model, patterns or {}, default, head, shared), model)


def whisper_plan(
    checkpoint: Path,
    default: QuantizationScheme = INT8,
    patterns: Mapping[str, QuantizationScheme] | None = None,
) -> QuantizationPlan:
    """The plan of a Whisper checkpoint."""
    opened = open_checkpoint(str(checkpoint))
    model = WHISPER.skeleton(opened.config)
    shared = shared_tables(WHISPER.TIED, opened.tensors)
    return plan_for(model, default, patterns, shared=shared)
