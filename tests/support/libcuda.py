"""A driver of NVIDIA cards for machines that have none: libcuda's functions, with told answers.

Its cards copy 1.5 GB a millisecond by their own events, and hold nothing.
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path

_SOURCE = """\
#include <cstring>
struct Card {{ const char* name; int major, minor, processors; size_t memory; }};
static const Card kCards[] = {{ {cards} {{"", 0, 0, 0, 0}} }};
extern "C" {{
int cuInit(unsigned) {{ return {init}; }}
int cuDriverGetVersion(int* version) {{ *version = {version}; return 0; }}
int cuDeviceGetCount(int* count) {{ *count = {count}; return 0; }}
int cuDeviceGet(int* device, int ordinal) {{ *device = ordinal; return 0; }}
int cuDeviceGetName(char* name, int size, int device) {{
  std::strncpy(name, kCards[device].name, size);
  return 0;
}}
int cuDeviceTotalMem_v2(size_t* bytes, int device) {{
  *bytes = kCards[device].memory;
  return 0;
}}
int cuDeviceGetAttribute(int* value, int attribute, int device) {{
  const Card& card = kCards[device];
  *value = attribute == 75 ? card.major : attribute == 76 ? card.minor : card.processors;
  return attribute == 75 || attribute == 76 || attribute == 16 ? 0 : 1;
}}
static size_t used = 0;
static int waits = 0;
int cuDevicePrimaryCtxRetain(void** context, int device) {{ *context = &used; return 0; }}
int cuCtxSetCurrent(void* context) {{ return context == &used ? 0 : 201; }}
int cuCtxSynchronize() {{ waits++; return 0; }}
int waits_of_driver() {{ return waits; }}
int cuMemGetInfo_v2(size_t* free, size_t* total) {{
  *total = kCards[0].memory;
  *free = *total - used;
  return 0;
}}
int cuMemAlloc_v2(unsigned long long* place, size_t bytes) {{
  if (used + bytes > kCards[0].memory) return 2;
  used += bytes;
  *place = used;
  return 0;
}}
int cuMemFree_v2(unsigned long long place) {{ used -= place > used ? used : place; return 0; }}
static unsigned long long copied = 0;
int cuMemcpyDtoDAsync_v2(unsigned long long, unsigned long long, size_t bytes, void*) {{
  copied += bytes;
  return 0;
}}
int cuEventCreate(void** event, unsigned) {{ *event = new unsigned long long; return 0; }}
int cuEventDestroy_v2(void* event) {{ delete (unsigned long long*)event; return 0; }}
int cuEventRecord(void* event, void*) {{ *(unsigned long long*)event = copied; return 0; }}
int cuEventSynchronize(void*) {{ return 0; }}
int cuEventElapsedTime(float* ms, void* start, void* end) {{
  *ms = (*(unsigned long long*)end - *(unsigned long long*)start) / 1.5e9;
  return 0;
}}
int cuGetErrorString(int code, const char** text) {{
  *text = code == 803 ? "system has unsupported display driver / cuda driver combination" : "no";
  return 0;
}}
}}
"""

Card = tuple[str, tuple[int, int], int, int]
H100: Card = ("NVIDIA H100 80GB HBM3", (9, 0), 132, 85_028_044_800)
L4: Card = ("NVIDIA L4", (8, 9), 58, 23_580_639_232)


def make_driver(
    folder: Path, cards: Sequence[Card] = (), *, version: int = 13000, init: int = 0
) -> Path:
    """Compile a `libcuda.so.1` into a folder.

    Args:
        folder: The folder, which is created where it is missing.
        cards: Name, capability, multiprocessors and bytes of each card.
        version: What `cuDriverGetVersion` answers.
        init: What `cuInit` answers: 0, or an error.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = "".join(
        f'{{"{name}", {major}, {minor}, {processors}, {memory}UL}}, '
        for name, (major, minor), processors, memory in cards
    )
    text = _SOURCE.format(cards=rows, init=init, version=version, count=len(cards))
    source, library = folder / "driver.cpp", folder / "libcuda.so.1"
    source.write_text(text)
    subprocess.run(["g++", "-shared", "-fPIC", "-o", library, source], check=True)
    return library
