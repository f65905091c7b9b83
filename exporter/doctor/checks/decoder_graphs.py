"""Checks of the graphs of one model together: missing parts, duplicate weights, shapes."""

import re
from collections import defaultdict
from collections.abc import Iterator

from exporter.doctor.checks.onnx_files import located
from exporter.doctor.detect import decoders, encoders, layout, sets
from exporter.doctor.finding import Finding
from exporter.doctor.folder import Folder
from exporter.doctor.values import digest
from exporter.formats.onnx_reader import Model, Place, Shape
from exporter.system.progress import shown_bytes

_MERGED, _PAST, _FIRST, _ENCODER = (
    *("decoder_model_merged", "decoder_with_past", "decoder", "encoder"),
)
_LARGE_BYTES = 16 << 10
_TWICE_FROM = 0.05
_MOST_HASHED = 4096
_CACHE = re.compile(r"(?:past_key_values|present)\.(\d{1,6})\.(decoder|encoder)\.(key|value)")
_EXPORT = "optimum-cli export onnx --task automatic-speech-recognition-with-past -m ORG/NAME FOLDER"


def missing_parts(folder: Folder) -> Iterator[Finding]:
    """Find encoders without decoders, and decoders that lack a part."""
    if layout(folder).name not in ("optimum", "transformers.js"):
        return
    for roles in sets(folder).values():
        one = next(iter(roles.values())).name
        writes = roles.keys() & {_MERGED, _PAST, _FIRST}
        if writes and _ENCODER not in roles:
            yield Finding("problem", one, "has no encoder of the same variant beside it", _EXPORT)
        if _ENCODER in roles and not writes:
            yield Finding("problem", one, "has no decoder of the same variant beside it", _EXPORT)
        elif _MERGED not in roles and writes == {_PAST}:
            what = "needs the cache of decoder_model.onnx, which is missing"
            yield Finding("problem", one, what, _EXPORT)
        elif _MERGED not in roles and writes == {_FIRST}:
            what = (
                "has no decoder_with_past_model.onnx or decoder_model_merged.onnx beside it: "
                "loaders refuse it, or recompute all earlier tokens for each token"
            )
            yield Finding("problem", roles[_FIRST].name, what, _EXPORT)
        elif _MERGED not in roles and writes and layout(folder).name == "transformers.js":
            what = "transformers.js opens only decoder_model_merged, which is missing"
            yield Finding("problem", roles[_FIRST].name, what, _EXPORT)


def several_variants(folder: Folder) -> Iterator[Finding]:
    """Find several variants in one folder: a loader takes the first silently."""
    places: dict[str, list[str]] = defaultdict(list)
    for (place, variant), roles in sets(folder).items():
        if _ENCODER in roles or "model" in roles:
            places[place].append(variant or "plain")
    for place, variants in places.items():
        if len(variants) > 1 and layout(folder).name == "optimum":
            what = f"{len(variants)} variants in one folder ({', '.join(variants[:4])})"
            fix = "Move each variant into its own folder, or pass the file names to the loader."
            yield Finding("warning", place, f"{what}: optimum opens the plain one", fix)


def weights_twice(folder: Folder) -> Iterator[Finding]:
    """Find weights that are stored twice among the graphs that work together."""
    for roles in sets(folder).values():
        ordered = sorted(
            roles, key=lambda role: role != _MERGED
        )  # the merged decoder first, since it is kept
        held = [each for role in ordered for each in _large(folder, roles[role])]
        total = sum(place.length for _, place in held)
        twice = _again(folder, held)
        wasted = sum(place.length for _, place in twice)
        if wasted > _TWICE_FROM * total:
            where = sorted({model for model, _ in twice})
            what = (
                f"{len(twice)} weights are stored a second time: {shown_bytes(wasted)} "
                f"of {shown_bytes(total)}"
            )
            yield Finding("warning", ", ".join(where), what, _once(roles))


def _large(folder: Folder, model: Model) -> Iterator[tuple[str, Place]]:
    for tensor in model.tensors():
        place = located(model, tensor)
        if place and place.length >= _LARGE_BYTES and folder.holds(place):
            yield model.name, place


def _again(folder: Folder, held: list[tuple[str, Place]]) -> list[tuple[str, Place]]:
    """Return the places whose bytes another place has too; only equal sizes are read."""
    sizes: dict[int, dict[Place, str]] = defaultdict(dict)
    for name, place in held:
        sizes[place.length].setdefault(place, name)
    alike = [(name, p) for same in sizes.values() if len(same) > 1 for p, name in same.items()]
    seen: set[tuple[int, str]] = set()
    twice = []
    for name, place in alike[:_MOST_HASHED]:
        key = place.length, digest(folder.path / place.file, place.offset, place.length)
        if key in seen:
            twice.append((name, place))
        seen.add(key)
    return twice


def _once(roles: dict[str, Model]) -> str:
    """Return the fix that stores each weight once."""
    if _MERGED in roles and roles.keys() & {_FIRST, _PAST}:
        others = ", ".join(roles[role].name for role in (_FIRST, _PAST) if role in roles)
        return f"Delete {others}: loaders use the merged decoder."
    if _PAST in roles:
        return "Merge the decoders (optimum.onnx.merge_decoders), or build onnx-int8 with exporter."
    return "Export again with shared weights, or build onnx-int8 with exporter."


def cache_switch(folder: Folder) -> Iterator[Finding]:
    """Find merged decoders without the input that switches the cache on."""
    for roles in sets(folder).values():
        merged = roles.get(_MERGED)
        if merged and "use_cache_branch" not in merged.graph.inputs:
            what = "is named merged but has no input use_cache_branch, which optimum passes to it"
            yield Finding("warning", merged.name, what, f"Merge it again: {_EXPORT}")


def cache_order(folder: Folder) -> Iterator[Finding]:
    """Find caches out of order: optimum passes them by position, not by name."""
    for model in decoders(folder):
        matches = [match for name in model.graph.inputs if (match := _CACHE.fullmatch(name))]
        keys = [(int(m[1]), m[2], m[3]) for m in matches]
        if keys != sorted(keys):
            what = "caches are not ordered by layer, then decoder before encoder, key before value"
            yield Finding("problem", model.name, what, f"Export again: {_EXPORT}")


def cache_shapes(folder: Folder) -> Iterator[Finding]:
    """Compare layers, heads and widths of decoders with config.json."""
    layers, heads, width = (
        folder.number("config.json", key)
        for key in ("decoder_layers", "decoder_attention_heads", "d_model")
    )
    for model in decoders(folder):
        values: dict[str, Shape] = {**model.graph.inputs, **model.graph.outputs}
        caches = [(m, values[name]) for name in values if (m := _CACHE.fullmatch(name))]
        if not caches:
            continue
        deep = 1 + max(int(match[1]) for match, _ in caches)
        shape = caches[0][1]
        wrong = []
        if layers is not None and deep != layers:
            wrong.append(f"{deep} layers, config.json {layers}")
        if len(shape) == 4 and isinstance(shape[1], int) and heads is not None:
            size = shape[3] if isinstance(shape[3], int) else None
            if shape[1] != heads:
                wrong.append(f"{shape[1]} heads, config.json {heads}")
            elif size and width and size * heads != width:
                wrong.append(f"heads {size} wide, config.json {width} for {heads}")
        if wrong:
            fix = "Use the config.json of the exported checkpoint, or export again."
            yield Finding("problem", model.name, "; ".join(wrong), fix)


def hidden_width(folder: Folder) -> Iterator[Finding]:
    """Compare the encoder's output width with its decoders' input width."""
    for roles in sets(folder).values():
        states = roles[_ENCODER].graph.outputs if _ENCODER in roles else {}
        width = next((s[-1] for s in states.values() if len(s) == 3 and type(s[-1]) is int), None)
        for role in (_MERGED, _FIRST, _PAST):
            taken = roles[role].graph.inputs.get("encoder_hidden_states") if role in roles else None
            if width and taken and isinstance(taken[-1], int) and taken[-1] != width:
                what = f"takes hidden states of width {taken[-1]}; the encoder's have {width}"
                fix = "These are parts of different models: export both from one checkpoint."
                yield Finding("problem", roles[role].name, what, fix)


def fixed_batch(folder: Folder) -> Iterator[Finding]:
    """Find graphs with a fixed batch size or number of tokens."""
    for model in {m.name: m for m in (*encoders(folder), *decoders(folder))}.values():
        ids = model.graph.inputs.get("input_ids", ())
        features = next((s for n, s in model.graph.inputs.items() if "features" in n), ())
        fixed = [size for size in (*ids[:2], *features[:1]) if isinstance(size, int) and size != 1]
        if fixed:
            what = f"accepts only batches or texts of size {fixed[0]}, as traced"
            fix = f"Export again, with dynamic axes: {_EXPORT}"
            yield Finding("problem", model.name, what, fix)


CHECKS = (
    *(missing_parts, several_variants, weights_twice, cache_switch, cache_order, cache_shapes),
    *(hidden_width, fixed_batch),
)
