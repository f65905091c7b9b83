"""The kinds of artifact by the device that they are built for."""

from exporter.targets import TARGETS, facts_of

ON_CPU = [kind for kind in TARGETS if "cpu" in facts_of(kind).COSTS]
