"""Compiles, caches and selects the Numba kernels.

Each kernel is declared with one explicit signature and compiled (or read from the cache) the first time a pass needs
it, so that inference does not wait for the backward kernels. Kernels release the GIL and are single-threaded:
`numba_threads` runs them in parallel, so no Numba threading layer (TBB, OpenMP, workqueue) is started.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numba
from numba import njit
from tqdm.auto import tqdm

logger = logging.getLogger(__name__)

KERNELS_ENV = "EMOTAG_RASTERIZER_KERNELS"
KERNEL_CHOICES = ("auto", "vector", "plain")

# No 'nnan' or 'ninf': culling relies on comparisons with NaN being false.
_FAST_MATH = {"contract", "reassoc", "nsz", "arcp", "afn"}
_OPTIONS: dict[str, Any] = {"fastmath": _FAST_MATH, "error_model": "numpy", "boundscheck": False}

_compile_lock = threading.Lock()


def _sources_digest() -> str:
    """A digest of all kernel sources. Numba's cache watches one file only, and our kernels call across files."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("numba_*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


_DIGEST = _sources_digest()

device = njit(forceinline=True, **_OPTIONS)  # only kernels call it; left to itself LLVM may pass arrays through memory


class Kernel:
    """One kernel: a Python function with one signature, compiled on first use.

    Args:
        function: what to compile. It must write its results into its arguments or return a number.
        signature: Numba signature, the only one this kernel will ever have.
    """

    def __init__(self, function: Callable[..., Any], signature: str) -> None:
        function.__qualname__ = f"{function.__qualname__}_{_DIGEST}"
        self.__doc__ = function.__doc__
        self.name = function.__name__
        self._function = function
        self._signature = signature
        self._compiled: Callable[..., Any] | None = None

    def __call__(self, *args: Any) -> Any:
        if self._compiled is None:
            compile_kernels((self,))
        return self._compiled(*args)  # type: ignore[misc]

    @property
    def is_ready(self) -> bool:
        """Whether the machine code is loaded in this process."""
        return self._compiled is not None

    def _compile(self) -> bool:
        """Loads or compiles the kernel; True if it was not in the cache."""
        dispatcher = _cached_dispatcher(self._function)
        try:
            dispatcher.compile(self._signature)
        except OSError as error:  # the cache folder is full or was deleted since the check
            logger.warning("The kernel cache cannot be written (%s); compiling in memory.", error)
            dispatcher = njit(nogil=True, **_OPTIONS)(self._function)
            dispatcher.compile(self._signature)
        dispatcher.disable_compile()
        self._compiled = dispatcher
        return not dispatcher.stats.cache_hits


def kernel(signature: str) -> Callable[[Callable[..., Any]], Kernel]:
    """Decorator: declares a `Kernel` with its one signature."""
    return lambda function: Kernel(function, signature)


def _cached_dispatcher(function: Callable[..., Any]) -> Any:
    """A dispatcher that caches in Numba's folder if it is writable, else in a temporary folder, else not at all."""
    try:
        return njit(cache=True, nogil=True, **_OPTIONS)(function)
    except RuntimeError:  # Numba found no folder it may write to
        pass
    previous = numba.config.CACHE_DIR
    owner = os.getuid() if hasattr(os, "getuid") else "user"
    try:
        numba.config.CACHE_DIR = _private_folder(os.path.join(tempfile.gettempdir(), f"emotag_hf-kernels-{owner}"))
        dispatcher = njit(cache=True, nogil=True, **_OPTIONS)(function)
        logger.info("Kernel cache: %s (no other cache folder can be written).", numba.config.CACHE_DIR)
        return dispatcher
    except (RuntimeError, OSError):
        logger.warning("No folder for the kernel cache can be written: the rasteriser compiles anew in each process.")
        return njit(nogil=True, **_OPTIONS)(function)
    finally:
        numba.config.CACHE_DIR = previous


def _private_folder(path: str) -> str:
    """Makes `path`; raises OSError if others could write there, because Numba's cache is pickle, which runs code."""
    os.makedirs(path, mode=0o700, exist_ok=True)
    info = os.lstat(path)
    if not stat.S_ISDIR(info.st_mode) or (
        hasattr(os, "getuid") and (info.st_uid != os.getuid() or info.st_mode & 0o022)
    ):
        raise OSError(f"{path} belongs to somebody else or can be written by others")
    return path


def compile_kernels(kernels: Sequence[Kernel]) -> None:
    """Compiles those of `kernels` that are not ready, with a progress bar unless they come from the cache.

    Thread-safe: a second caller waits for the first.
    """
    if all(k.is_ready for k in kernels):
        return
    with _compile_lock:
        missing = [k for k in kernels if not k.is_ready]
        start, bar = time.perf_counter(), None
        for number, item in enumerate(missing, start=1):
            compiled = item._compile()
            if compiled and bar is None:
                bar = tqdm(total=len(missing), desc="Compiling the CPU rasteriser (once per machine)", leave=False)
            if bar is not None:
                bar.update(number - bar.n)
        if bar is not None:
            bar.close()
            logger.info("Compiled %d rasteriser kernels in %.1f s.", len(missing), time.perf_counter() - start)


def cpu_has_wide_fma() -> bool:
    """Whether Numba compiles for an x86 CPU with AVX2 and FMA, for which the vector kernels are faster.

    Reads Numba's own settings (NUMBA_CPU_NAME, NUMBA_CPU_FEATURES) because they decide what LLVM may emit.
    """
    return _has_wide_fma(numba.config.CPU_NAME, numba.config.CPU_FEATURES)


@functools.cache
def _has_wide_fma(cpu_name: str | None, cpu_features: str | None) -> bool:
    if not llvm.get_process_triple().startswith(("x86_64", "amd64", "i686")):
        return False
    if cpu_features is not None:
        enabled = {f[1:] for f in cpu_features.split(",") if f.startswith("+")}
    elif cpu_name is not None and cpu_name != llvm.get_host_cpu_name():
        return False
    else:
        enabled = {name for name, present in llvm.get_host_cpu_features().items() if present}
    return {"avx2", "fma"} <= enabled


def selected_kernels() -> str:
    """Which set of compositing kernels to use: "vector" or "plain".

    Follows the environment variable EMOTAG_RASTERIZER_KERNELS (auto, vector, plain); auto means vector on x86 CPUs
    with AVX2 and FMA.

    Raises:
        ValueError: for any other value of the variable.
    """
    choice = os.environ.get(KERNELS_ENV, "auto").strip().lower() or "auto"
    if choice not in KERNEL_CHOICES:
        raise ValueError(f"{KERNELS_ENV} must be one of {', '.join(KERNEL_CHOICES)}; got {choice!r}.")
    if choice == "auto":
        return "vector" if cpu_has_wide_fma() else "plain"
    return choice
