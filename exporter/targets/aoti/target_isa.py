"""Patch Inductor's choice of vector instructions and its flags; nothing else patches torch.

Inductor 2.13 probes this CPU and compiles for all its features (`torch/_inductor/cpu_vec_isa.py`).
Its settings `cpp.simdlen` and ATEN_CPU_CAPABILITY only select among these, so that x86-64-v4 would
also get this machine's -mamx-* and -mavx512vnni. It has no setting for flags of the compiler and
the linker, which it takes from the selected instruction set only.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


@contextmanager
def target_isa(march: str, flags: Sequence[str]) -> Iterator[None]:
    """Make Inductor vectorize for an x86-64 level, whatever CPU this is, and add `flags`.

    Args:
        march: x86-64-v3 (AVX2) or x86-64-v4 (AVX-512 without later extensions).
        flags: Options and object files for the compiler, which also links.
    """
    from torch._inductor import cpu_vec_isa

    base: Any = cpu_vec_isa.VecAVX512 if march == "x86-64-v4" else cpu_vec_isa.VecAVX2

    class Isa(base):  # type: ignore[misc]
        _arch_flags = " ".join([base._arch_flags, *flags])
        __hash__ = base.__hash__

        def __bool__(self) -> bool:
            return True

    inductor: Any = cpu_vec_isa
    original, isas = inductor.valid_vec_isa_list, [Isa()]
    inductor.valid_vec_isa_list = lambda: isas
    try:
        yield
    finally:
        inductor.valid_vec_isa_list = original
