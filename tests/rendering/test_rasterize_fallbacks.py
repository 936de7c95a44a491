"""The renderer where a machine lacks something: each lack is forced in a process of its own, and it still renders."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import llvmlite.binding as llvm
import pytest
import torch

import emotag_hf
from emotag_hf.rendering import numba_runtime, rasterize

PACKAGE = Path(emotag_hf.__file__).parent

# Renders the scene that the parent stored and reports what it used.
CHILD = """
import json, logging, sys, types
from pathlib import Path

root, folder = sys.argv[1], Path(sys.argv[2])
package = types.ModuleType("emotag_hf")  # the renderer alone, without what `import emotag_hf` registers
package.__path__ = [root]
sys.modules["emotag_hf"] = package
sys.modules["tbb"] = None  # as if not installed
logging.basicConfig(level=logging.INFO)

import torch
from emotag_hf.rendering import rasterize
from emotag_hf.rendering.numba_runtime import selected_kernels

scene = torch.load(folder / "scene.pt", weights_only=True)
with torch.no_grad():
    colors, _, _ = rasterize(**scene)
torch.save(colors, folder / "picture.pt")

import numba
try:
    layer = numba.threading_layer()
except ValueError:
    layer = None
print(json.dumps({"kernels": selected_kernels(), "layer": layer}))
"""


@pytest.fixture
def child(tmp_path: Path, make_scene):
    """Renders here, then runs CHILD with some environment; returns its report, its stderr and the largest difference
    between the two pictures."""

    def run(environment: dict[str, str], package: Path = PACKAGE) -> tuple[dict, str, float]:
        scene = make_scene(3000, (97, 65))
        names = ("means", "quats", "scales", "opacities", "colors", "viewmats", "Ks", "width", "height")
        arguments = {name: getattr(scene, name) for name in names}
        torch.save(arguments, tmp_path / "scene.pt")
        with torch.no_grad():
            expected, _, _ = rasterize(**arguments)
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA_", "EMOTAG_"))}
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(package), str(tmp_path)],
            env={**clean, **environment}, capture_output=True, text=True, timeout=200, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        picture = torch.load(tmp_path / "picture.pt", weights_only=True)
        report = json.loads(done.stdout.strip().splitlines()[-1])
        return report, done.stderr, (picture - expected).abs().max().item()

    return run


def _site_with_blocked_caches(folder: Path) -> tuple[Path, dict[str, str]]:
    """A copy of the renderer and an environment in which Numba finds no folder that it may write to.

    A file stands where each folder would be, because a test may run as root, who may write everywhere.
    """
    package = folder / "site" / "emotag_hf"
    shutil.copytree(PACKAGE / "rendering", package / "rendering", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(PACKAGE / "utils", package / "utils")
    (package / "rendering" / "__pycache__").touch()
    (folder / "blocked").touch()
    (folder / "tmp").mkdir()
    home, temporary = str(folder / "blocked" / "home"), str(folder / "tmp")
    names = {"HOME": home, "XDG_CACHE_HOME": home, "LOCALAPPDATA": home}
    return package, {**names, "TMPDIR": temporary, "TEMP": temporary, "TMP": temporary}


def _cache_folder(folder: Path) -> Path:
    return folder / "tmp" / f"emotag_hf-kernels-{os.getuid() if hasattr(os, 'getuid') else 'user'}"


@pytest.mark.slow
def test_old_cpu_with_read_only_folders(child, tmp_path: Path) -> None:
    """No AVX, no tbb, read-only site-packages and home: ordinary kernels for a generic CPU, cached in the temporary
    folder, on threads that need no threading layer; the compilation shows its progress."""
    package, environment = _site_with_blocked_caches(tmp_path)
    report, stderr, difference = child({**environment, "NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}, package)
    assert report == {"kernels": "plain", "layer": None}
    assert difference < 5e-3
    assert any(_cache_folder(tmp_path).rglob("*.nbi"))
    assert "Compiling the CPU rasteriser" in stderr


@pytest.mark.slow
def test_no_folder_for_a_cache_at_all(child, tmp_path: Path) -> None:
    """Where not even the temporary folder takes the cache, each process compiles anew and says so."""
    package, environment = _site_with_blocked_caches(tmp_path)
    _cache_folder(tmp_path).touch()
    report, stderr, difference = child(environment, package)
    assert report["layer"] is None and difference < 5e-3
    assert "compiles anew in each process" in stderr


@pytest.mark.slow
def test_cached_kernels_load_without_a_progress_line(child) -> None:
    """A progress line at each start would tell users that something is being compiled when it is not; this process has
    rendered before and filled the cache."""
    _, stderr, difference = child({})
    assert "Compiling" not in stderr and difference < 1e-6


@pytest.mark.parametrize(
    ("name", "features", "expected"),
    [(None, "+avx2,+fma", True), (None, "+avx,+sse4.2", False), (None, "", False), ("generic", None, False)],
)
def test_vector_kernels_need_avx2_and_fma(name: str | None, features: str | None, expected: bool) -> None:
    """NUMBA_CPU_NAME and NUMBA_CPU_FEATURES decide what may be emitted, whatever the host has."""
    if not llvm.get_process_triple().startswith("x86_64"):
        expected = False
    assert numba_runtime._has_wide_fma(name, features) is expected
