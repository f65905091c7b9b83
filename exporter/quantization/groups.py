"""Groups of a model's modules with readable names, and the shortest patterns that select them.

A group is a block of a layer: its attention, or its feed-forward modules. Groups are small enough
to tell which part of a model does not bear a scheme, and few enough to try each of them.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import translate

from exporter.quantization.plan import HEAD

MOST_GROUPS = 100
_LAYER = re.compile(r"(.+?)\.(\d+)(?:\.(.+))?")
_FEED_FORWARD = "feed-forward"
_LAYERS = re.compile(r"(?:(\w+)_)?(?:layer|block)s?")


@dataclass(frozen=True)
class ModuleGroup:
    """Modules that get a scheme together, in the model's order.

    Attributes:
        name: A name for people, like `encoder layer 3, self_attn`.
        modules: The modules' names.
    """

    name: str
    modules: tuple[str, ...]


@dataclass(frozen=True)
class _Place:
    """Where a module is: in a layer of a stack, or outside; `block` is the part of the layer."""

    stack: str
    layer: int | None
    block: str


def module_groups(
    names: Sequence[str],
    head: str,
    shared: Mapping[str, str],
    most: int = MOST_GROUPS,
) -> list[ModuleGroup]:
    """Divide modules into groups by layer and block.

    Modules with the same parent form a group, like the projections of an attention, or both
    modules of a feed-forward block. Of a deep model, adjacent layers are joined until there are at
    most `most` groups, as far as that goes. A table with a head's weights is in its group.

    Args:
        names: The names of the modules, in the model's order.
        head: The name of the module that projects to the vocabulary.
        shared: The result of `exporter.quantization.plan.shared_tables`.
        most: The most groups.

    Returns:
        The groups, in the order of their first modules.
    """
    places = {name: _place(name, head) for name in names if name not in shared}
    layers = [place.layer for place in places.values() if place.layer is not None]
    deepest = max(layers, default=0) + 1
    groups: list[ModuleGroup] = []
    for joined in range(1, deepest + 1):
        groups = _joined(places, joined)
        if len(groups) <= most:
            break
    return [_with_tables(group, shared, names) for group in groups]


def parts_of(group: ModuleGroup, shared: Mapping[str, str]) -> list[ModuleGroup]:
    """Return a group for each module of a group; a table stays with its head.

    Args:
        group: The group.
        shared: The result of `exporter.quantization.plan.shared_tables`.
    """
    own = [name for name in group.modules if name not in shared]
    leaves = [name.rpartition(".")[2] for name in own]
    told = leaves if len(set(leaves)) == len(own) else own  # joined layers have the same leaves
    if len(own) == 1:
        return [group]
    parts = [
        ModuleGroup(f"{group.name}, {leaf}", (name,)) for leaf, name in zip(told, own, strict=True)
    ]
    return [_with_tables(part, shared, group.modules) for part in parts]


def _with_tables(
    group: ModuleGroup, shared: Mapping[str, str], names: Collection[str]
) -> ModuleGroup:
    tables = [t for t, owner in shared.items() if t in names and owner in group.modules]
    return replace(group, modules=(*group.modules, *tables))


def _joined(places: dict[str, _Place], layers: int) -> list[ModuleGroup]:
    """Return the groups with so many adjacent layers in each."""
    found: dict[_Place, list[str]] = {}
    for name, place in places.items():
        layer = None if place.layer is None else place.layer // layers
        found.setdefault(_Place(place.stack, layer, place.block), []).append(name)
    return [
        ModuleGroup(_named(key, [places[name] for name in modules], modules), tuple(modules))
        for key, modules in found.items()
    ]


def _place(name: str, head: str) -> _Place:
    if name == head:
        return _Place("", None, "head")
    parent, _, leaf = name.rpartition(".")
    if match := _LAYER.fullmatch(parent):
        stack, layer, block = match.groups()
        return _Place(stack, int(layer), block or "")
    return _Place(parent, None, "" if parent else leaf)


def _named(key: _Place, places: Sequence[_Place], modules: Sequence[str]) -> str:
    """Return a group's name: where it is, and which part of that."""
    block = key.block.replace("feed_forward", _FEED_FORWARD) or _leaves(modules)
    if not key.stack:
        return block
    first, *rest = key.stack.split(".")
    parts = rest or [first]
    layers = sorted({place.layer for place in places if place.layer is not None})
    if not layers:
        return f"{'.'.join(parts)}, {block}"
    if stack := _LAYERS.fullmatch(parts[-1]):
        kind = [stack[1]] if stack[1] else []
        where = " ".join([*parts[:-1], *kind, "layer" if len(layers) == 1 else "layers"])
    else:
        where = ".".join(parts)
    which = f"{layers[0]}" if len(layers) == 1 else f"{layers[0]} to {layers[-1]}"
    return f"{where} {which}, {block}"


def _leaves(modules: Sequence[str]) -> str:
    """Return the last parts of the modules' names; those of a feed-forward block have a name."""
    leaves = list(dict.fromkeys(name.rpartition(".")[2] for name in modules))
    if all(re.fullmatch(r"fc\d", leaf) for leaf in leaves):
        return _FEED_FORWARD
    return " and ".join(leaves)


def selecting(wanted: Collection[str], names: Sequence[str], head: str) -> list[str]:
    """Return few shell-style patterns that match all of `wanted`, and no other of `names`.

    Args:
        wanted: The names to match, all among `names`.
        names: All names that a pattern could match.
        head: The name that `lm_head` stands for.

    Returns:
        The patterns, the one with the most modules first.
    """
    left, others = set(wanted), [name for name in names if name not in wanted]
    found: dict[str, set[str]] = {}
    for pattern in dict.fromkeys(_candidates(wanted, head)):
        if pattern == HEAD:
            found[pattern] = {head}
            continue
        matches = re.compile(translate(pattern)).match
        if not any(map(matches, others)):
            found[pattern] = set(filter(matches, wanted))
    chosen = []
    while left:
        best = max(found, key=lambda p: (len(found[p] & left), p == HEAD, *_plainness(p)))
        chosen.append(best)
        left -= found[best]
    return chosen


def _plainness(pattern: str) -> tuple[int, int]:
    """Rank patterns with fewer open places first, and then short ones."""
    return -len(re.findall(r"[*?[]", pattern)), -len(pattern)


def _candidates(wanted: Collection[str], head: str) -> Iterator[str]:
    """Yield patterns from the particular to the general; every name is one itself."""
    runs = _runs(wanted)
    for name in wanted:
        yield HEAD if name == head else name
        for parts in _variants(name.split("."), runs):
            yield ".".join(parts)
            for place in range(1, len(parts)):
                yield f"{'.'.join(parts[:place])}.*"
                yield f"*.{'.'.join(parts[place:])}"
    yield "*"


def _variants(parts: list[str], runs: dict[str, list[str]]) -> Iterator[list[str]]:
    """Yield a name's parts with its layer and the digit of its last part left open."""
    leaf = re.sub(r"\d$", "?", parts[-1])
    for ending in dict.fromkeys((parts[-1], leaf)):
        whole = [*parts[:-1], ending]
        yield whole
        place = next((i for i, part in enumerate(parts) if part.isdecimal() and i), None)
        if place is None:
            continue
        for layer in ("*", *runs.get(".".join(parts[:place]), ())):
            yield [*whole[:place], layer, *whole[place + 1 :]]


def _runs(wanted: Collection[str]) -> dict[str, list[str]]:
    """Return patterns for neighbouring layers by the stack, like `[3-5]` and `1[0-4]`.

    They begin and end where some block's layers do.
    """
    layers: dict[str, dict[str, set[int]]] = {}
    for name in wanted:
        if match := _LAYER.match(name):
            rest = name[match.end(2) :]
            layers.setdefault(match.group(1), {}).setdefault(rest, set()).add(int(match.group(2)))
    return {
        stack: list(dict.fromkeys(run for each in blocks.values() for run in _digits(each)))
        for stack, blocks in layers.items()
    }


def _digits(layers: set[int]) -> Iterator[str]:
    """Yield a pattern for each run of numbers that differ in the last digit only."""
    run: list[int] = []
    for layer in [*sorted(layers), -1]:
        if run and (layer != run[-1] + 1 or layer // 10 != run[0] // 10):
            if len(run) > 1:
                tens = str(run[0] // 10) if run[0] >= 10 else ""
                yield f"{tens}[{run[0] % 10}-{run[-1] % 10}]"
            run = []
        run.append(layer)
