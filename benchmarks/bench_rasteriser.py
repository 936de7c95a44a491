"""Milliseconds of the CPU rasteriser by image size and number of Gaussians.

    python benchmarks/bench_rasteriser.py [--sizes 256 512] [--counts 10000 60000] [--repeats 15] [--yardstick DIR]

For each set of kernels (plain, vector): forward and backward from 2D Gaussians to four channels, forward and backward
of `rasterize` from 3D, and frames per second of inference from 3D. The scene is an ellipsoid of discs of 1.5 to 3
pixels that covers 60 % of the image. `--yardstick DIR` names a folder with the prototype's `nbplain.py` and `nbvec.py`;
they are timed alternately with ours on the same Gaussians, and ratios to them are printed. Medians; on a busy machine
only the ratios are meaningful.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np
import torch

from emotag_hf.rendering import Camera, numba_backend, rasterize
from emotag_hf.rendering.numba_threads import get_num_threads
from emotag_hf.rendering.numba_tiles import Splats, TileLists, compositing_kernels

YARDSTICKS = {"plain": "nbplain", "vector": "nbvec"}


def head_scene(count: int, size: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Discs on an ellipsoid, tangent to it, seen by one camera: the arguments of `rasterize`."""
    rng = np.random.default_rng(seed)
    axes, distance = np.array([0.75, 1.0, 0.8]), 5.0
    focal = distance * size * np.sqrt(0.6 / (np.pi * axes[0] * axes[1]))
    directions = rng.normal(size=(count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    normals = directions / axes
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    # the rotation that takes z to the normal, after a spin about z
    swing = np.concatenate([1.0 + normals[:, 2:], np.cross([0.0, 0.0, 1.0], normals)], axis=1)
    spin = rng.uniform(0, np.pi, count)
    c, s = np.cos(spin)[:, None], np.sin(spin)[:, None]
    w, x, y, z = (swing[:, i : i + 1] for i in range(4))
    quats = np.concatenate([w * c - z * s, x * c + y * s, y * c - x * s, z * c + w * s], axis=1)
    spread = rng.uniform(1.5, 3.0, size=(count, 2)) * distance / focal
    camera = Camera.portrait(size, distance=distance, focal=float(focal))
    arrays = {
        "means": directions * axes,
        "quats": quats,
        "scales": np.concatenate([spread, 0.2 * spread.min(axis=1, keepdims=True)], axis=1),
        "opacities": 0.01 + 0.98 * rng.beta(4, 1.5, size=count),
        "colors": 0.5 + 0.5 * np.sin(6 * directions * axes),
    }
    tensors = {name: torch.from_numpy(a.astype(np.float32)) for name, a in arrays.items()}
    return {**tensors, "viewmats": camera.viewmat[None], "Ks": camera.K[None]}


def load_yardsticks(folder: Path) -> dict[str, object]:
    """The prototype's modules by the name of our kernels that they measure."""
    for name in ("libtbb.so.12", "libtbb.12.dylib"):
        library = Path(sys.prefix) / "lib" / name
        if library.exists():  # else Numba takes OpenMP, whose threads spin
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    sys.path.insert(0, str(folder))
    cache, sys.dont_write_bytecode = numba.config.CACHE_DIR, True  # leave nothing in the user's folder
    numba.config.CACHE_DIR = os.path.join(tempfile.gettempdir(), "emotag_hf-yardstick")
    modules = {kernels: importlib.import_module(module) for kernels, module in YARDSTICKS.items()}
    numba.config.CACHE_DIR, sys.dont_write_bytecode = cache, False
    return modules


def splats_of(scene: dict[str, torch.Tensor], size: int) -> Splats:
    """The scene's 2D Gaussians with depth as the fourth channel."""
    inputs = [scene[k] for k in ("means", "quats", "scales", "opacities", "viewmats", "Ks")]
    means2d, conics, depths, _, radii = numba_backend.project(*inputs, size, size, 0.3, 0.01, 1e10, False)
    arrays = (t.numpy() for t in (means2d[0], conics[0], scene["colors"], scene["opacities"], depths[0], radii[0]))
    return Splats(*arrays, with_depth=True)


def from_2d(splats: Splats, size: int, v_colors: np.ndarray, v_alphas: np.ndarray, clock: Callable) -> None:
    """One forward and backward pass of our kernels, without autograd."""
    background = np.zeros(4, np.float32)
    colors, alphas = np.empty((size, size, 4), np.float32), np.empty((size, size), np.float32)
    with clock("2D forward"):
        lists = TileLists(compositing_kernels(), splats, size, size)
        lists.forward(background, 0.999, colors, alphas)
    with clock("2D backward"):
        lists.backward(background, 0.999, colors, alphas, v_colors, v_alphas, False)


def yardstick_2d(module, splats: Splats, size: int, v_colors, v_alphas, clock: Callable) -> None:
    """The same by the prototype."""
    colors4 = np.concatenate([splats.colors, splats.depths[:, None]], axis=1)
    radii, background = splats.radii, np.zeros(4, np.float32)
    with clock("yardstick forward"):
        context = module.forward(
            splats.means2d, splats.conics, colors4, splats.opacities, splats.depths, radii, size, size, background
        )
    with clock("yardstick backward"):
        module.backward(context, v_colors, v_alphas)


def from_3d(scene: dict[str, torch.Tensor], size: int, clock: Callable) -> None:
    """A training pass (RGB and depth) and one frame of inference (RGB) through `rasterize`."""
    trained = ("means", "quats", "scales", "opacities", "colors")
    leaves = {k: v.clone().requires_grad_(k in trained) for k, v in scene.items()}
    with clock("3D forward"):
        colors, alphas, _ = rasterize(**leaves, width=size, height=size, render_mode="RGB+D")
    v_colors, v_alphas = torch.ones_like(colors), torch.ones_like(alphas)
    with clock("3D backward"):
        torch.autograd.backward([colors, alphas], [v_colors, v_alphas])
    with torch.no_grad(), clock("3D inference"):
        rasterize(**scene, width=size, height=size)


class Clock:
    """Collects milliseconds by name: `with clock("x"): ...`."""

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = defaultdict(list)

    def __call__(self, name: str) -> Clock:
        self._name = name
        return self

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.times[self._name].append(1e3 * (time.perf_counter() - self._start))

    def median(self, name: str) -> float:
        return float(np.median(self.times[name]))


def report(size: int, count: int, kernels: str, clock: Clock) -> None:
    """One line of the table."""
    cells = [f"{size:5d} {count:7d} {kernels:7s}"]
    for name in ("2D forward", "2D backward"):
        cells.append(f"{clock.median(name):7.2f}")
        theirs = f"yardstick {name.split()[1]}"
        cells.append(f"{clock.median(name) / clock.median(theirs):5.2f}x" if theirs in clock.times else "     -")
    cells += [f"{clock.median(name):7.2f}" for name in ("3D forward", "3D backward", "3D inference")]
    cells.append(f"{1e3 / clock.median('3D inference'):6.0f}")
    print("  ".join(cells), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 30_000, 60_000])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--yardstick", type=Path, help="folder with the prototype's nbplain.py and nbvec.py")
    args = parser.parse_args()
    if args.yardstick and not (args.yardstick / "nbvec.py").exists():
        parser.error(f"--yardstick: {args.yardstick} holds no nbvec.py")
    yardsticks = load_yardsticks(args.yardstick) if args.yardstick else {}
    torch.set_num_threads(1)  # idle torch threads get in the way of ours on a small machine
    print(f"{get_num_threads()} threads; milliseconds, ratio to the yardstick's, frames per second of inference")
    print(" size   count kernels  2D fwd   ratio   2D bwd   ratio   3D fwd   3D bwd  3D infer     fps")
    for size in args.sizes:
        for count in args.counts:
            scene = head_scene(count, size)
            rng = np.random.default_rng(1)
            v_colors = rng.normal(size=(size, size, 4)).astype(np.float32)
            v_alphas = rng.normal(size=(size, size)).astype(np.float32)
            splats = splats_of(scene, size)
            clocks = {kernels: Clock() for kernels in YARDSTICKS}
            for repeat in range(args.repeats + 2):
                for kernels, clock in clocks.items():
                    os.environ["EMOTAG_RASTERIZER_KERNELS"] = kernels
                    if repeat == 2:  # two rounds to compile and to warm up
                        clock.times.clear()
                    from_2d(splats, size, v_colors, v_alphas, clock)
                    if kernels in yardsticks:
                        yardstick_2d(yardsticks[kernels], splats, size, v_colors, v_alphas, clock)
                    from_3d(scene, size, clock)
            for kernels, clock in clocks.items():
                report(size, count, kernels, clock)


if __name__ == "__main__":
    main()
