"""All plants, module by module."""

from importlib import import_module

from tests.damage.planting import Plant

_MODULES = (
    *("scales", "ranges", "groups", "weights", "graphs", "merged", "native", "companions", "ctc"),
    *("labels", "corpus"),
)


def all_plants() -> list[Plant]:
    """Return every plant; their names differ."""
    modules = (import_module(f"{__name__}.{name}") for name in _MODULES)
    plants = [plant for module in modules for plant in module.PLANTS.plants]
    assert len({plant.name for plant in plants}) == len(plants)
    return plants
