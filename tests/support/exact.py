"""Options with which int8 products are exact on any machine.

Without VNNI the default's u8 x s8 products saturate at 16 bits: a build warns of it, and words may
change. Tests of something else build with 7 bits there.
"""

from exporter.system.hardware import describe

OPTIONS: dict[str, object] = {} if describe().vnni else {"reduce_range": True}
ARGUMENTS = () if describe().vnni else ("--set", "targets.0.reduce_range=true")
OVERRIDES = () if describe().vnni else ("targets.0.reduce_range=true",)
