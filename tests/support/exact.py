"""Options with which int8 products are exact on any machine.

Without VNNI the default's u8 x s8 products saturate at 16 bits: a build warns of it, and words may
change. Tests of something else build with 7 bits there.
"""

from exporter.quantization.schemes.dynamic_int8 import Scheme as DynamicInt8
from exporter.system.hardware import describe

SCHEME = DynamicInt8() if describe().vnni else DynamicInt8(bits=7)
_SET = "targets.0.quantization.default={scheme: dynamic-int8, bits: 7}"
ARGUMENTS = () if describe().vnni else ("--set", _SET)
OVERRIDES = () if describe().vnni else (_SET,)
