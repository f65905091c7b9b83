"""Libraries of CUDA that do nothing, so that onnxruntime's own CUDA provider runs without a card.

Memory is the host's, kernels are not run, and captured graphs are counted. What the provider does
on the host is its own: where it places nodes, which shapes and types a kernel takes, which calls it
captures. No number that it returns means anything.

    python -m tests.support.cardless placements|search|transcribe FOLDER
"""

import ctypes
import json
import mmap
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.support.libcuda import H100, make_driver

_RUNTIME = "libcudart.so.13"
_LIBRARIES = (_RUNTIME, "libcublas.so.13", "libcublasLt.so.13", "libcurand.so.10", "libcudnn.so.9")
# The functions that have to do something. Their arguments, and the places of a card's properties
# (of CUDA 13), are those of cuda_runtime_api.h.
_SOURCE = """\
#include <stdlib.h>
#include <string.h>
typedef void* P; typedef size_t N;
static char object[4096];
static int captured, replayed;
static int take(P* p, N n) { *p = aligned_alloc(4096, (n + 4095) / 4096 * 4096); return 0; }
static int make(P* p) { *p = object; return 0; }
int cudaMalloc(P* p, N n) { return take(p, n); }
int cudaMallocHost(P* p, N n) { return take(p, n); }
int cudaHostAlloc(P* p, N n, unsigned f) { return take(p, n); }
int cudaFree(P p) { free(p); return 0; }
int cudaFreeHost(P p) { free(p); return 0; }
int cudaFreeAsync(P p, P s) { free(p); return 0; }
int cudaMemcpy(P a, P b, N n, int k) { memcpy(a, b, n); return 0; }
int cudaMemcpyAsync(P a, P b, N n, int k, P s) { memcpy(a, b, n); return 0; }
int cudaMemset(P a, int v, N n) { memset(a, v, n); return 0; }
int cudaMemsetAsync(P a, int v, N n, P s) { memset(a, v, n); return 0; }
int cudaMemcpy2DAsync(char* d, N dp, char* s, N sp, N w, N h, int k, P t) {
  for (N i = 0; i < h; i++) memcpy(d + i * dp, s + i * sp, w);
  return 0;
}
int cudaMemcpyFromSymbol(P d, P s, N n, N o, int k) { memset(d, 0, n); return 0; }
int cudaMemGetInfo(N* left, N* all) { *left = *all = 80UL << 30; return 0; }
int cudaGetDevice(int* d) { *d = 0; return 0; }
int cudaGetDeviceCount(int* n) { *n = 1; return 0; }
int cudaDriverGetVersion(int* v) { *v = 13000; return 0; }
int cudaRuntimeGetVersion(int* v) { *v = 13000; return 0; }
int cudaStreamCreate(P* s) { return make(s); }
int cudaStreamCreateWithFlags(P* s, unsigned f) { return make(s); }
int cudaEventCreate(P* e) { return make(e); }
int cudaEventCreateWithFlags(P* e, unsigned f) { return make(e); }
int cudaEventElapsedTime(float* ms, P a, P b) { *ms = 1; return 0; }
int cudaStreamIsCapturing(P s, int* state) { *state = 0; return 0; }
int cudaStreamBeginCapture(P s, int mode) { captured++; return 0; }
int cudaStreamEndCapture(P s, P* graph) { return make(graph); }
int cudaGraphInstantiate(P* e, P g, unsigned long long f) { return make(e); }
int cudaGraphLaunch(P e, P s) { replayed++; return 0; }
int cudaLaunchHostFunc(P s, void (*f)(P), P data) { f(data); return 0; }
int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* n, P f, int b, N m, unsigned g) {
  *n = 2;
  return 0;
}
int cudaFuncGetAttributes(P a, P f) { memset(a, 0, 64); return 0; }
static int capability(void) {
  const char* told = getenv("CARDLESS_CAPABILITY");
  return told ? atoi(told) : 90;
}
int cudaDeviceGetAttribute(int* v, int a, int d) {
  *v = a == 75 ? capability() / 10 : a == 76 ? capability() % 10 : a == 16 ? 132 : 1024;
  return 0;
}
int cudaGetDeviceProperties(char* p, int d) {
  memset(p, 0, 1008);
  strcpy(p, "no card");
  *(N*)(p + 288) = 80UL << 30;  /* totalGlobalMem */
  *(N*)(p + 296) = 48 << 10;    /* sharedMemPerBlock */
  *(int*)(p + 308) = 32;        /* warpSize */
  *(int*)(p + 320) = 1024;      /* maxThreadsPerBlock */
  *(int*)(p + 360) = capability() / 10;  /* major */
  *(int*)(p + 364) = capability() % 10;  /* minor */
  *(int*)(p + 384) = 132;       /* multiProcessorCount */
  *(int*)(p + 604) = 2048;      /* maxThreadsPerMultiProcessor */
  *(N*)(p + 624) = 228 << 10;   /* sharedMemPerMultiprocessor */
  *(N*)(p + 672) = 227 << 10;   /* sharedMemPerBlockOptin */
  return 0;
}
int cudaPointerGetAttributes(int* a, P p) { memset(a, 0, 32); a[0] = 2; return 0; }
const char* cudaGetErrorName(int e) { return "error"; }
const char* cudaGetErrorString(int e) { return "error"; }
int cuTensorMapEncodeTiled(void) { return 0; }
int cardless_captured(void) { return captured; }
int cardless_replayed(void) { return replayed; }
"""
_HANDLES = """\
static char handle[4096];
int {0}(void** h) {{ *h = handle; return 0; }}
"""
# What attention before capability 8.0 asks of the driver.
_DRIVER = (
    *("cuGetErrorName", "cuFuncSetAttribute", "cuLinkComplete", "cuModuleUnload", "cuLinkDestroy"),
    *("cuLinkCreate_v2", "cuModuleLoadData", "cuModuleGetFunction", "cuLinkAddFile_v2"),
    *("cuLinkAddData_v2", "cuLaunchCooperativeKernel", "cuLaunchKernel", "cuFuncSetCacheConfig"),
)
_CREATED = ("cublasCreate_v2", "cublasLtCreate", "cudnnCreate")


def make(folder: Path) -> Path:
    """Compile the libraries that the installed provider asks for into a folder."""
    provider = _provider()
    listed = subprocess.run(
        ["nm", "-D", "--undefined-only", provider], capture_output=True, text=True, check=True
    )
    wanted = [line.split()[-1] for line in listed.stdout.splitlines()]
    for library in _LIBRARIES:
        names = [each.partition("@")[0] for each in wanted if each.endswith(f"@{library}")]
        if library.startswith("libcudnn"):  # which is opened by name
            names = _named(provider, rb"cudnn[A-Z]\w+")
        _compile(folder, library, sorted(set(names)))
    (folder / "libcudnn.so").symlink_to("libcudnn.so.9")
    driver = make_driver(folder, [H100])
    more = folder / "more.cpp"
    more.write_text("".join(f'extern "C" int {name}() {{ return 0; }}\n' for name in _DRIVER))
    command = ["g++", "-shared", "-fPIC", "-o", driver, folder / "driver.cpp", more]
    subprocess.run(command, check=True)
    return folder


def environment(libraries: Path, capability: int = 90) -> dict[str, str]:
    """Return the environment of a process that finds the libraries, and a capability as 90."""
    told = {"LD_LIBRARY_PATH": str(libraries), "CARDLESS_CAPABILITY": str(capability)}
    return {**os.environ, **told}


def _provider() -> Path:
    found = find_spec("onnxruntime")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "capi" / "libonnxruntime_providers_cuda.so"


def _named(library: Path, pattern: bytes) -> list[str]:
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return [each.decode() for each in re.findall(rb"\0(" + pattern + rb")\0", data)]


def _compile(folder: Path, library: str, names: list[str]) -> None:
    source = _SOURCE if library == _RUNTIME else ""
    created = [name for name in names if name in _CREATED]
    source += "".join(map(_HANDLES.format, created))
    defined = {*re.findall(r"^(?:const char\* |int )(\w+)\(", source, flags=re.M)}
    source += "".join(
        f"long {name}(void) {{ return 0; }}\n" for name in names if name not in defined
    )
    code, versions = folder / f"{library}.c", folder / f"{library}.map"
    code.write_text(source)
    versions.write_text(f"{library} {{ global: *; }};\n")
    command = ["gcc", "-shared", "-fPIC", "-w", f"-Wl,-soname,{library}"]
    command += [f"-Wl,--version-script={versions}", "-o", folder / library, code]
    subprocess.run(command, check=True)


def placements(folder: Path) -> dict[str, Any]:
    """Open our graphs; return the operators of each provider, and what the session says."""
    import onnxruntime

    from exporter.runtime.onnx import cuda
    from exporter.runtime.onnx.device_whisper import GRAPHS

    cuda.require_provider()
    found = {}
    for name in GRAPHS:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 0
        log = folder / f"{name}.log"
        with log.open("wb") as file:
            kept = os.dup(2)
            os.dup2(file.fileno(), 2)
            path = str(folder / f"{name}.onnx")
            onnxruntime.InferenceSession(path, options, [cuda.provider(captured=True)])
            os.dup2(kept, 2)
        found[name] = _said(log.read_text(errors="replace"))
    return found


def _said(log: str) -> dict[str, Any]:
    """Return what the log of a session says about its nodes."""
    placed: dict[str, list[str]] = {"CPUExecutionProvider": [], "CUDAExecutionProvider": []}
    listed = placed["CPUExecutionProvider"]
    for line in log.splitlines():
        if (header := re.search(r"odes? ?(?:\(s\) )?placed on \[(\w+)\]", line)) is not None:
            listed = placed[header[1]]
            listed += ["all"] if "All nodes" in line else []
        elif (node := re.search(r"AssignedToAnEp\] +(\w+) \(", line)) is not None:
            listed.append(node[1])
    return {
        **placed,
        "captures": "will use the graph capture feature" in log,
        "copies": "MemcpyTransformer modified: 1" in log,
    }


def search(folder: Path) -> dict[str, Any]:
    """Decode with beams, of one window and of two, and attend; return shapes and counts."""
    import numpy as np

    from exporter.runtime.onnx import cuda
    from exporter.runtime.onnx.buffers import Memory
    from exporter.runtime.onnx.device_whisper import ENCODER, GRAPHS, STEP, Engine
    from exporter.runtime.onnx.session import open_graph

    cuda.require_provider()
    graphs = {}
    for name in GRAPHS:
        path, provider = folder / f"{name}.onnx", cuda.provider(captured=name in (ENCODER, STEP))
        graphs[name] = open_graph(path, path.read_bytes(), 1, providers=[provider])
    engine, shapes = Engine(graphs, Memory("cuda")), []
    given = graphs[ENCODER].inputs["input_features"].shape
    for windows in (1, 2):
        encoded = engine.encode(np.zeros((windows, *map(int, given[1:])), np.float32))
        hypotheses = engine.start(encoded)
        shapes.append(hypotheses.step(np.zeros((windows, 4), np.int64)).shape)
        hypotheses.expand_beams(5)
        for _ in range(4):
            rows = 5 * windows
            shapes.append(hypotheses.step(np.zeros((rows, 1), np.int64)).shape)
            hypotheses.reorder(np.arange(rows)[::-1].copy())
        hypotheses.release()
    found = engine.attend(encoded, 1, np.zeros(5, np.int64), [(0, 1), (1, 0)])
    library = ctypes.CDLL(_RUNTIME)
    return {
        "shapes": shapes,
        "attention": [found.logits.shape, found.queries.shape, found.keys.shape],
        "captured": library.cardless_captured(),
        "replayed": library.cardless_replayed(),
    }


def transcribe(folder: Path) -> dict[str, Any]:
    """Open an artifact and decode a second of silence; return what is known of it."""
    import numpy as np

    import exporter

    recogniser = exporter.load(folder, device="cuda")
    rate = recogniser.sampling_rate
    recogniser.transcribe(np.zeros(rate, np.float32), sampling_rate=rate)
    return {"graphs": sorted(recogniser.opened.functions)}


_FUNCTIONS: Mapping[str, Any] = {
    "placements": placements,
    "search": search,
    "transcribe": transcribe,
}

if __name__ == "__main__":
    # onnxruntime writes of kernels that it leaves out, without an end of the line.
    print("\n", json.dumps(_FUNCTIONS[sys.argv[1]](Path(sys.argv[2]))))
