"""The names of clips that were listed: a million of them in 32 MB."""

from array import array
from hashlib import blake2b

_EMPTY = 0


class Seen:
    """A set of names that holds 64 bits of a hash of each.

    Two of a million names have the same 64 bits with a probability of 3e-8.
    """

    def __init__(self) -> None:
        self._slots = array("Q", bytes(8 << 10))
        self._count = 0

    def add(self, name: str) -> bool:
        """Add a name, and return whether it was new."""
        digest = blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest()
        value = int.from_bytes(digest, "little") or 1
        slot = self._slot(self._slots, value)
        if self._slots[slot] == value:
            return False
        self._slots[slot] = value
        self._count += 1
        if 2 * self._count > len(self._slots):
            self._grow()
        return True

    @staticmethod
    def _slot(slots: "array[int]", value: int) -> int:
        """Return the place of a value, or the empty one where it belongs."""
        mask = len(slots) - 1
        slot = value & mask
        while slots[slot] not in (_EMPTY, value):
            slot = (slot + 1) & mask
        return slot

    def _grow(self) -> None:
        larger = array("Q", bytes(16 * len(self._slots)))
        for value in self._slots:
            if value != _EMPTY:
                larger[self._slot(larger, value)] = value
        self._slots = larger
