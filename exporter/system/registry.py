"""Names of members mapped to modules that are imported on use.

Listing the names imports nothing, so that help and lists answer at once.
"""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, Generic, TypeVar, cast

Member = TypeVar("Member")


class Registry(Mapping[str, Member], Generic[Member]):
    """A read-only mapping from names to members, each given by the path of its module.

    A member that is slow to import is a package: the package holds facts that are read without
    the member, and its module called `leaf` is the member.
    """

    def __init__(self, leaf: str, paths: Mapping[str, str]) -> None:
        """Store the dotted `paths` by name; nothing is imported."""
        self._leaf, self._paths = leaf, dict(paths)

    def __getitem__(self, name: str) -> Member:
        facts = self.facts(name)
        package = hasattr(facts, "__path__")
        return cast("Member", import_module(f"{facts.__name__}.{self._leaf}") if package else facts)

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def __contains__(self, name: object) -> bool:
        return name in self._paths  # the one of Mapping would import the member

    def facts(self, name: str) -> Any:
        """Return the module or package at a member's path, without the member's own imports."""
        return import_module(self._paths[name])
