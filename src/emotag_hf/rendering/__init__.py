"""Rendering of 3D Gaussians: `rasterize` with gsplat's contract, on CUDA (gsplat), on any CPU (Numba), and in torch."""

from .cameras import Camera
from .numba_threads import get_num_threads, set_num_threads
from .rasterize import BACKENDS, available_backends, rasterize

__all__ = ["BACKENDS", "Camera", "available_backends", "get_num_threads", "rasterize", "set_num_threads"]
