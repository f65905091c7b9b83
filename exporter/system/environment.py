"""The environment of child processes: a list of known variables, and nothing else.

Children run compilers and native code. What is not named here (keys, passwords, the addresses of
proxies and agents) does not reach them.
"""

import os
import re
import site
from pathlib import Path

# Each line is alternatives of whole names; a star stands for any ending.
PASSED_ON = """
    PATH HOME USER LOGNAME SHELL TMPDIR TEMP TMP TZ TZDIR LANG LANGUAGE LC_* LOCALE_ARCHIVE
    XDG_CACHE_HOME XDG_CONFIG_HOME XDG_DATA_HOME XDG_STATE_HOME
    PYTHON* VIRTUAL_ENV CONDA_PREFIX CONDA_DEFAULT_ENV LD_* MALLOC_* GLIBC_TUNABLES
    CC CXX CFLAGS CXXFLAGS CPPFLAGS LDFLAGS CPATH C_INCLUDE_PATH CPLUS_INCLUDE_PATH LIBRARY_PATH
    COMPILER_PATH GCC_EXEC_PREFIX CCACHE_DIR NIX_CC NIX_CFLAGS_COMPILE NIX_LDFLAGS SOURCE_DATE_EPOCH
    OMP_* GOMP_* KMP_* MKL_* OPENBLAS_* NUMEXPR_* DNNL_* ONEDNN_* ATEN_* CUDA_* NVIDIA_*
    TORCH_* PYTORCH_* ORT_* EXPORTER_*
    HF_HOME HF_HUB_CACHE HUGGINGFACE_HUB_CACHE TRANSFORMERS_CACHE TRANSFORMERS_VERBOSITY
"""
_NAMES = re.compile("|".join(name.replace("*", ".*") for name in PASSED_ON.split()))
_SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|AUTH|_PAT$|_?KEY$", re.IGNORECASE)
# Switches that would change the result without being recorded in the manifest.
_TUNING = re.compile(r"(TORCHINDUCTOR|TORCH_COMPILE|TORCHDYNAMO|AOT_INDUCTOR)_")
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def passed_on() -> dict[str, str]:
    """Return the variables of this process that child processes get."""
    return {
        name: value
        for name, value in os.environ.items()
        if _NAMES.fullmatch(name) and not _SECRET.search(name) and not _TUNING.match(name)
    }


def child_environment(threads: int | None = None) -> dict[str, str]:
    """Return the environment of a worker process, which stays offline.

    With `threads`, the thread counts of the numerical libraries are set.
    """
    inherited = passed_on()
    root = str(Path(__file__).resolve().parents[2])
    if root not in map(os.path.realpath, site.getsitepackages()):  # run from a checkout
        inherited["PYTHONPATH"] = os.pathsep.join(filter(None, [root, inherited.get("PYTHONPATH")]))
    return {
        **inherited,
        **(dict.fromkeys(_THREADS, str(threads)) if threads else {}),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
