"""Files beside the weights: those that are missing, and those that hold code."""

from collections.abc import Iterator
from dataclasses import replace

from exporter.artifact import store
from exporter.artifact.manifest import MANIFEST
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
    "config.json": "no loader knows what model it is",
    "generation_config.json": (
        "loaders make one up in silence, without languages, timestamps and suppressed tokens"
    ),
    "preprocessor_config.json": (
        "loaders assume 80 mel bins and a window of 30 s, or refuse the folder"
    ),
}
# For models of no family that is known here.
_USUAL = Companions(
    configs=("config.json", "generation_config.json", "preprocessor_config.json"),
    tokenizer=(),
    tokenizer_forms=(("tokenizer.json",), ("vocab.json", "merges.txt")),
)
_PROGRAMS = (".py", ".so", ".dll", ".dylib", ".sh", ".exe", ".ipynb", ".wasm", ".jar")
_PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", "training_args.bin")
_GENAI = ("audio_processor_config.json", "tokenizer_config.json")


def missing_files(folder: Folder) -> Iterator[Finding]:
    """What a transcript needs beside weights; each loader of ONNX needs the same."""
    kind = layout(folder).name
    if kind == "nothing":
        what = "no ONNX graphs, no safetensors, no torch weights"
        yield Finding("problem", ".", what, "Give the folder that holds the model itself.")
    if kind in ("nothing", "sherpa", "adapter", "torch"):
        return
    if kind == "genai":
        for name in _GENAI:
            if name not in folder.files:
                mend = "Copy it from the model builder's output."
                yield Finding("problem", name, "is missing: onnxruntime-genai opens it", mend)
        return
    below = [name.removesuffix("/config.json") for name in folder.matching("/config.json")]
    if below and "config.json" not in folder.files:
        yield Finding("problem", ".", "holds models in its folders", f"Give one: {below[0]}")
        return
    missing = [] if is_adapter(folder.files) else _companions(folder).missing(folder.files)
    if kind == "ctranslate2":
        missing = [name for name in missing if name != "generation_config.json"]
    for name in missing:
        without = _WITHOUT.get(name, "numbers cannot be turned into text")
        yield Finding("problem", name, f"is missing: {without}", _copy(folder, name))


def _companions(folder: Folder) -> Companions:
    """What the family of a folder's config needs; of other models, what most of them need."""
    try:
        return family_facts(family_name(folder.config())).COMPANIONS
    except CheckpointError:
        # A generation config matters only where text is generated token by token.
        writes = {part.role for part in parts(folder)} - {"model"}
        return _USUAL if writes else replace(_USUAL, configs=_USUAL.configs[::2])


def _copy(folder: Folder, name: str) -> str:
    """The command that mends a missing file, as far as the folder tells its origin."""
    file = name.split()[0]
    origin = folder.config().get("_name_or_path")
    known = isinstance(origin, str) and hub_id(origin) is not None
    source = origin if known else "ORG/NAME"
    told = "" if known else "  (ORG/NAME: the model that this was made from)"
    return f"hf download {source} {file} --local-dir {folder.path}{told}"


def code_in_configs(folder: Folder) -> Iterator[Finding]:
    """Configs that ask a loader for code, or for files elsewhere."""
    for name in folder.configs:
        if name.endswith("config.json"):
            try:
                refuse_code(folder.path / name)
            except CheckpointError as error:
                what = str(error).removeprefix(f"{folder.path / name}: ").splitlines()[0]
                mend = "Take the key out of the file, or take a model that transformers knows."
                yield Finding("problem", name, what, mend)


def programs(folder: Folder) -> Iterator[Finding]:
    """Files that are code, or that run code when they are loaded."""
    for name in folder.matching(*_PROGRAMS):
        mend = "Read it before a loader imports it; none of the doctor's checks ran it."
        yield Finding("warning", name, "is code", mend)
    for name in folder.matching(*_PICKLES):
        mend = "Take safetensors of the same model, or load it only if you trust who made it."
        yield Finding("warning", name, "is a pickle: what opens it runs what it says", mend)


def packages(folder: Folder) -> Iterator[Finding]:
    """Torch's packages: compiled programs."""
    for name in folder.matching(".pt2"):
        what = "is a compiled program, which torch unpacks and runs"
        if name not in folder.left:
            try:
                pt2.check(folder.path / name)
            except IntegrityError as error:
                told = str(error).splitlines()[0].removeprefix(f"{folder.path / name} has ")
                what += f"; not one of exporter's: {told.split(';')[0]}"
            else:
                if layout(folder).name == "artifact":
                    continue
        mend = "Load it only if you trust who built it, on a CPU like the builder's."
        yield Finding("warning", name, what, mend)


def model_type(folder: Folder) -> Iterator[Finding]:
    """A model that no family here knows."""
    told = folder.config().get("model_type")
    known = model_types()
    foreign = layout(folder).name in ("genai", "ctranslate2", "sherpa")
    if "config.json" in folder.configs and told not in known and not foreign:
        what = f"model_type {told!r} is not one of: {', '.join(known)}"
        mend = (
            "Only what does not depend on the kind of model was checked; exporter builds the known."
        )
        yield Finding("warning", "config.json", what, mend)


def manifest(folder: Folder) -> Iterator[Finding]:
    """An artifact of ours that is not what its manifest promises."""
    if MANIFEST in folder.files and not folder.left:
        try:
            store.verify(folder.path)
        except IntegrityError as error:
            first, *rest = str(error).replace(f"{folder.path}/", "").splitlines()
            mend = rest[0] if rest else "exporter build RECIPE --force, or exporter pull it again."
            yield Finding("problem", MANIFEST, first, mend)


CHECKS = (missing_files, code_in_configs, programs, packages, model_type, manifest)
