"""Open the artifacts to judge: verified bytes, the recipe and the corpus to transcribe."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from exporter.artifact import local_paths
from exporter.artifact.manifest import RECIPE, Manifest
from exporter.artifact.trust import verify_and_authorize
from exporter.errors import DataError
from exporter.formats.clips.addresses import source_at
from exporter.recipe import Data, Recipe, read
from exporter.system.accelerators import Device
from exporter.system.files import readable_name
from exporter.system.progress import Progress
from exporter.validate.corpus.index import Corpora, Corpus, Reading
from exporter.validate.corpus.languages import Spoken
from exporter.validate.corpus.order import order_of
from exporter.validate.gate.latency import TIMED_CLIPS
from exporter.validate.gate.looks import Looks, planned

Until = Literal["certain", "all"]
"""How many clips are heard: as many as make the verdict on words certain, or all."""

# A batch is timed as a whole, so several are needed for a median.
TIMED_BATCHES = 8


@dataclass(frozen=True)
class Subject:
    """One artifact to judge: its hashes verified, with its recipe and the clips to transcribe.

    The report is written to `place`. `reader` reads the clips up to a look, from 0. Of the first
    one, `most_timed` clips are timed. `spoken` is how the languages that clips name are used.
    """

    folder: Path
    place: Path
    manifest: Manifest
    recipe: Recipe
    data: Data
    reader: Reading
    most_timed: int
    looks: Looks | None = None
    look: int = 0
    spoken: Spoken = field(default_factory=Spoken)

    @property
    def corpus(self) -> Corpus:
        """All clips, or those that are heard up to the look."""
        return self.reader.at(self.look)

    @property
    def timed(self) -> tuple[int, ...]:
        """The indices of the clips to time, the same for all artifacts on this data."""
        return tuple(self.reader.at(0).sample(self.most_timed, self.data.seed))

    @property
    def name(self) -> str:
        """The name of the artifact's folder, which is its target's name in the recipe."""
        return readable_name(self.folder.resolve().name)


@dataclass(frozen=True)
class Settings:
    """Settings of the command line: see `validate`.

    `blame` is whether the modules that cause lost words are looked for, `evidence` whether an
    artifact's weights and steps are compared with those of its plan.
    """

    data: str | None
    max_clips: int | None
    reference: str | None
    threads: int | None
    workers: int
    trust: bool
    device: Device | None = None
    blame: bool = True
    evidence: bool = True
    until: Until = "certain"
    skip_unreadable: bool = False
    store: str | None = None
    part: tuple[int, int] | None = None
    merge: bool = False
    on: str = "local"
    timing: str = "here"

    @property
    def is_spread(self) -> bool:
        """Whether clips are read where they are heard, and not before, on this machine."""
        return self.part is not None or self.merge or self.on != "local"


def open_subject(
    folder: Path, place: Path, settings: Settings, corpora: Corpora, progress: Progress
) -> Subject:
    """Check an artifact's bytes and read its clips, before any model runs.

    Args:
        folder: The artifact.
        place: The folder of its report.
        settings: Settings that override the recipe's.
        corpora: Reads each corpus once.
        progress: Called with the current activity.

    Raises:
        DataError: No data are named, or they cannot be read.
        IntegrityError: The artifact's bytes are not those that were sealed.
        TrustError: Its code was not built here, and the user does not trust it.
        HubError: A dataset cannot be downloaded.
        MachineError: pyarrow is missing, which a dataset needs.
    """
    progress(f"{folder.name}: checking bytes", None)
    manifest = verify_and_authorize(folder, trust=settings.trust)
    recipe = read(folder / RECIPE)
    data = recipe.data
    if settings.data:
        source_at(Path(), settings.data)  # before it is made a part of data, which are published
        data = Data(clips=settings.data, seed=data.seed if data else 0)
    if data is None:
        msg = f"{folder}: its recipe names no data to validate on: give --data FOLDER_OR_MANIFEST"
        raise DataError(msg)
    if settings.max_clips:
        data = data.model_copy(update={"max_clips": settings.max_clips})
    base = Path() if settings.data else Path(local_paths.read(folder, manifest).recipe).parent
    source = source_at(base, data.clips) if data.clips else None
    if isinstance(source, Path) and not settings.data and not source.exists():
        msg = f"{folder}: its recipe's clips are not at {source}: name them with --data"
        raise DataError(msg)
    listed = corpora.listed(data, base)
    most = max(TIMED_CLIPS, TIMED_BATCHES * recipe.decoding.batch_size)
    looks = None
    if settings.until == "certain":
        looks = planned(order_of(listed, data.seed), max(recipe.gate.min_clips, most))
    sizes = looks.sizes if looks else (len(listed),)
    reader = corpora.reader(listed, sizes, looks.order.by_looks(sizes) if looks else None)
    if reader.here:
        reader.at(0)
    return Subject(folder, place, manifest, recipe, data, reader, most, looks)
