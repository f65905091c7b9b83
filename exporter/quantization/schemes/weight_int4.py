"""weight-int4: weights of 4 bits in groups, for modules whose time is that of reading them."""

from typing import ClassVar

from exporter.quantization.schemes.weight_only import GroupSize, WeightOnly


class Scheme(WeightOnly):
    """4-bit codes with a scale, and a zero point unless `symmetric`, per `group_size` inputs."""

    name: ClassVar[str] = "weight-int4"
    BITS: ClassVar[int] = 4

    group_size: GroupSize = 32
