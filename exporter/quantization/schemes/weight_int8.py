"""weight-int8: weights of 8 bits in groups, for modules whose time is that of reading them."""

from typing import ClassVar

from exporter.quantization.schemes.weight_only import GroupSize, WeightOnly


class Scheme(WeightOnly):
    """8-bit codes with a scale, and a zero point unless `symmetric`, per `group_size` inputs."""

    name: ClassVar[str] = "weight-int8"
    BITS: ClassVar[int] = 8

    group_size: GroupSize = 128
