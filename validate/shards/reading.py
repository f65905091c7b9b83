"""Clips that were read where they were heard: known from the parts of an original."""

from collections.abc import Iterable
from dataclasses import replace

from exporter.errors import DataError
from exporter.formats.clips.opening import Opener
from exporter.validate.corpus.index import Examined, Reading
from exporter.validate.shards.hearing import Hearing


class PartsReading(Reading):
    """Reads clips from what one model heard; their audio is opened only where it is needed."""

    here = False
    _heard: Hearing | None = None

    def heard_by(self, hearing: Hearing) -> None:
        """Name the hearing that tells the clips; the first one that is named does."""
        self._heard = self._heard or hearing

    def stage(self, places: Iterable[int]) -> None:
        """Open clips that were read, so that each has a file on this machine.

        Args:
            places: Their indices in the corpus.

        Raises:
            DataError: One is missing, or has another sound than the one that was heard.
        """
        staging = self.index.path.with_suffix("")
        staging.mkdir(exist_ok=True)
        with Opener() as opener:
            for place in sorted({*places} - self._staged.keys()):
                one = Examined.of_row(self.index[place])
                staged, sha256 = opener.staged(one.clip, staging, f"{place:06}")
                if sha256 != one.audio:
                    msg = (
                        f"{one.clip.where or one.clip.id}: its audio was changed since it was heard"
                    )
                    raise DataError(msg)
                self._staged[place] = replace(staged, path=staged.path.resolve())

    def _further(self, look: int) -> None:
        assert self._heard is not None
        with self.index.writing() as write:
            for clips, unreadable in self._heard.examined(look):
                self._unreadable += unreadable
                for one in clips:
                    self._add(one, write)
