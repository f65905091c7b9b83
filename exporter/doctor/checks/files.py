"""Checks of the files beside the weights: missing ones, and ones that hold code."""

from collections.abc import Iterator
from dataclasses import replace

from exporter.artifact import store
from exporter.artifact.manifest import MANIFEST
from exporter.checkpoint import companions
from exporter.checkpoint.files import is_adapter
from exporter.doctor.detect import layout, parts
from exporter.doctor.finding import Finding
from exporter.doctor.folder import Folder
from exporter.errors import CheckpointError, IntegrityError
from exporter.families import family_facts, family_name, model_types
from exporter.families.facts import Companions
from exporter.formats import pt2
from exporter.formats.config_json import refuse_code
from exporter.hub.client import hub_id

_WITHOUT = {
    "config.json": "loaders cannot tell the kind of model",
    "generation_config.json": (
        "loaders use defaults, without languages, timestamps and suppressed tokens"
    ),
    "preprocessor_config.json": (
        "loaders assume 80 mel bins and a window of 30 s, or refuse the folder"
    ),
}
# For models of unknown families.
_USUAL = Companions(
    configs=("config.json", "generation_config.json", "preprocessor_config.json"),
    tokenizer=(),
    tokenizer_forms=(("tokenizer.json",), ("vocab.json", "merges.txt")),
)
_PROGRAMS = (".py", ".so", ".dll", ".dylib", ".sh", ".exe", ".ipynb", ".wasm", ".jar")
_PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", "training_args.bin")
_GENAI = ("audio_processor_config.json", "tokenizer_config.json")


def missing_files(folder: Folder) -> Iterator[Finding]:
    """Find missing configs and tokenizer files, which every loader needs."""
    kind = layout(folder).name
    if kind == "nothing":
        what = "no ONNX graphs, no safetensors, no torch weights"
        yield Finding("problem", ".", what, "Name the folder that holds the model's files.")
    if kind in ("nothing", "sherpa", "adapter", "speechbrain", "torch"):
        return
    if kind == "genai":
        for name in _GENAI:
            if name not in folder.files:
                fix = "Copy it from the model builder's output."
                yield Finding("problem", name, "is missing: onnxruntime-genai needs it", fix)
        return
    below = [name.removesuffix("/config.json") for name in folder.matching("/config.json")]
    if below and "config.json" not in folder.files:
        yield Finding("problem", ".", "holds models in subfolders", f"Name one: {below[0]}")
        return
    missing = [] if is_adapter(folder.files) else _missing(folder)
    if kind == "ctranslate2":
        missing = [name for name in missing if name != "generation_config.json"]
    for name in missing:
        without = _WITHOUT.get(name, "tokens cannot be turned into text")
        yield Finding("problem", name, f"is missing: {without}", _copy(folder, name))


def _missing(folder: Folder) -> list[str]:
    needed = _companions(folder)
    try:
        return companions.missing(folder.files, folder.path.joinpath, needed)
    except CheckpointError:  # `folder.configs` tells what is wrong with such a file
        return needed.missing(folder.files)


def _companions(folder: Folder) -> Companions:
    """Return what the family of a folder's config needs; of other models, what most need."""
    try:
        return family_facts(family_name(folder.config())).COMPANIONS
    except CheckpointError:
        # A generation config matters only where text is generated token by token.
        writes = {part.role for part in parts(folder)} - {"model"}
        return _USUAL if writes else replace(_USUAL, configs=_USUAL.configs[::2])


def _copy(folder: Folder, name: str) -> str:
    """Return the command that downloads a missing file, with its origin if known."""
    file = name.split()[0]
    origin = folder.config().get("_name_or_path")
    known = isinstance(origin, str) and hub_id(origin) is not None
    source = origin if known else "ORG/NAME"
    note = "" if known else "  (ORG/NAME: the original model)"
    return f"hf download {source} {file} --local-dir {folder.path}{note}"


def code_in_configs(folder: Folder) -> Iterator[Finding]:
    """Find configs that make a loader run code, or open files elsewhere."""
    for name in folder.configs:
        if name.endswith("config.json"):
            try:
                refuse_code(folder.path / name)
            except CheckpointError as error:
                what = str(error).removeprefix(f"{folder.path / name}: ").splitlines()[0]
                fix = "Delete the key, or use a model that transformers implements."
                yield Finding("problem", name, what, fix)


def programs(folder: Folder) -> Iterator[Finding]:
    """Find files that are code, or that run code when loaded."""
    for name in folder.matching(*_PROGRAMS):
        fix = "Read it before a loader imports it; the doctor did not run it."
        yield Finding("warning", name, "is code", fix)
    for name in folder.matching(*_PICKLES):
        fix = "Use safetensors of the same model, or load it only if you trust its author."
        yield Finding("warning", name, "is a pickle: loading it can run code", fix)


def packages(folder: Folder) -> Iterator[Finding]:
    """Find torch's compiled packages, which are native code."""
    for name in folder.matching(".pt2"):
        what = "is a compiled program, which torch unpacks and runs"
        if name not in folder.left:
            try:
                pt2.check(folder.path / name)
            except IntegrityError as error:
                reason = str(error).splitlines()[0].removeprefix(f"{folder.path / name} has ")
                what += f"; not one of exporter's: {reason.split(';')[0]}"
            else:
                if layout(folder).name == "artifact":
                    continue
        fix = "Load it only if you trust its builder, on a CPU like the one it was built on."
        yield Finding("warning", name, what, fix)


def model_type(folder: Folder) -> Iterator[Finding]:
    """Find models that no family supports."""
    kind = folder.config().get("model_type")
    known = model_types()
    foreign = layout(folder).name in ("genai", "ctranslate2", "sherpa")
    if "config.json" in folder.configs and kind not in known and not foreign:
        what = f"model_type {kind!r} is not one of: {', '.join(known)}"
        fix = "exporter cannot build it, and checked only what does not depend on the model type."
        yield Finding("warning", "config.json", what, fix)


def newer_tokenizer(folder: Folder) -> Iterator[Finding]:
    """Find a tokenizer that only transformers 5 can read."""
    name = "tokenizer_config.json"
    if isinstance(folder.config(name).get("extra_special_tokens"), list):
        what = "extra_special_tokens is a list, which transformers 4 cannot read"
        fix = (
            "Rename it additional_special_tokens, or use transformers 5. `exporter build` reads it."
        )
        yield Finding("note", name, what, fix)


def manifest(folder: Folder) -> Iterator[Finding]:
    """Verify the bytes of an exporter artifact against its manifest."""
    if MANIFEST in folder.files and not folder.left:
        try:
            store.verify(folder.path)
        except IntegrityError as error:
            first, *rest = str(error).replace(f"{folder.path}/", "").splitlines()
            fix = rest[0] if rest else "exporter build RECIPE --force, or exporter pull it again."
            yield Finding("problem", MANIFEST, first, fix)


CHECKS = (
    missing_files,
    code_in_configs,
    programs,
    packages,
    model_type,
    newer_tokenizer,
    manifest,
)
