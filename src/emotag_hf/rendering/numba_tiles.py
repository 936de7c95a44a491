"""Tile lists of one image: 2D Gaussians in, the image out; the image's gradient in, the Gaussians' gradients out.

Joins the kernels of `numba_binning` and of the compositing set that this CPU can run. Everything works on float32
NumPy arrays; autograd is in `numba_backend`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from . import numba_binning as binning
from . import numba_kernels as plain
from .numba_runtime import Kernel, selected_kernels
from .numba_threads import WorkspaceLease, get_num_threads, run_parts, split

_MAX_ENTRIES = 2**31 - 1
_TOO_LARGE = (
    "scales are too large for this picture: the Gaussians cover more than 2^31 tiles in all. Use fewer or smaller "
    "Gaussians or a smaller picture."
)
_SMALL = 2048  # below so many Gaussians a second thread does not pay


@dataclass(frozen=True)
class CompositingKernels:
    """One set of compositing kernels; both sets have the same signatures."""

    name: str
    list_entries: Kernel
    forward: Kernel
    backward: Kernel
    gather: Kernel


def compositing_kernels() -> CompositingKernels:
    """The set that EMOTAG_RASTERIZER_KERNELS and this CPU select."""
    name = selected_kernels()
    if name == "vector":
        from . import numba_vector_kernels as vector

        return CompositingKernels(
            "vector", vector.list_entries, vector.composite_forward, vector.composite_backward, vector.gather_gradients
        )
    return CompositingKernels(
        "plain", binning.list_entries, plain.composite_forward, plain.composite_backward, plain.gather_gradients
    )


def parts_for(count: int) -> int:
    return 1 if count < _SMALL else get_num_threads()


@dataclass(frozen=True)
class Splats:
    """The input of one image: NumPy views of one camera's 2D Gaussians."""

    means2d: np.ndarray  # [N, 2]
    conics: np.ndarray  # [N, 3]
    colors: np.ndarray  # [N, D]
    opacities: np.ndarray  # [N]
    depths: np.ndarray  # [N]
    radii: np.ndarray  # [N, 2]
    with_depth: bool  # the depth is the last channel

    @property
    def channels(self) -> int:
        return self.colors.shape[1] + self.with_depth


@dataclass
class _Part:
    """The sorted Gaussians [start, stop) that one thread bins, and their entries: one for each touched tile."""

    index: int
    start: int
    stop: int
    offsets: np.ndarray | None = None  # [count + 1] where the entries of each Gaussian begin
    places: np.ndarray | None = None  # of each entry: first the tile, later its place in the tile lists
    masks: np.ndarray | None = None  # of each entry: which blocks of the tile are touched


class TileLists:
    """Packed records (rows) of the Gaussians and tile lists of one image, in buffers of a shared workspace that are
    borrowed while this object exists."""

    def __init__(self, kernels: CompositingKernels, splats: Splats, width: int, height: int) -> None:
        self.kernels, self.splats = kernels, splats
        self.tiles_x, self.tiles_y = -(-width // binning.TILE), -(-height // binning.TILE)
        self.tiles = self.tiles_x * self.tiles_y
        self._lease = WorkspaceLease()
        self._scratch = scratch = self._lease.workspace
        count = len(splats.depths)
        self.rows = scratch.array("rows", (count, binning.ROW), np.float32)
        self._rects = scratch.array("rects", (count, 4), np.int16)
        self._packed_channel = -1
        self._pack(0)
        self.order = scratch.array("order", count, np.uint32)
        keys = [scratch.array(f"keys{i}", count, np.uint32) for i in range(3)]
        self.drawn = binning.depth_order(self.rows, self.order, *keys, scratch.array("histogram", 4096, np.uint32))
        self._fill_lists()

    def _pack(self, channel: int) -> None:
        """Puts four channels, from `channel` on, into the rows."""
        if channel == self._packed_channel:
            return
        s = self.splats
        parts = parts_for(len(s.depths))
        run_parts(
            lambda part: binning.pack_rows(
                *split(len(s.depths), parts, part), s.means2d, s.conics, s.colors, channel, s.with_depth,
                s.opacities, s.depths, s.radii, self.tiles_x, self.tiles_y, self.rows, self._rects
            ),
            parts,
        )  # fmt: skip
        self._packed_channel = channel

    def _fill_lists(self) -> None:
        scratch = self._scratch
        self.parts = [_Part(i, *split(self.drawn, parts_for(self.drawn), i)) for i in range(parts_for(self.drawn))]
        cursor = scratch.array("cursor", (len(self.parts), self.tiles), np.int32)
        run_parts(lambda i: self._list_part(self.parts[i], cursor[i]), len(self.parts))
        listed = sum(int(part.offsets[-1]) for part in self.parts)
        if listed > _MAX_ENTRIES:
            raise ValueError(_TOO_LARGE)
        self.tile_start = scratch.array("tile_start", self.tiles + 1, np.int32)
        self.tile_order = scratch.array("tile_order", self.tiles, np.int32)
        binning.scan_counts(cursor, self.tile_start, self.tile_order)
        self.entries = scratch.array("entries", (listed, 2), np.uint32)

        def scatter(i: int) -> None:
            p = self.parts[i]
            binning.scatter_entries(
                p.start, p.stop - p.start, self.order, p.offsets, p.places, p.masks, cursor[i], self.entries
            )

        run_parts(scatter, len(self.parts))

    def _list_part(self, part: _Part, per_tile: np.ndarray) -> None:
        """Lists the entries of one part, with more room whenever it runs out."""
        scratch, count, done = self._scratch, part.stop - part.start, 0
        per_tile.fill(0)
        words = scratch.array(f"words{part.index}", 8, np.uint64)
        part.offsets = scratch.array(f"offsets{part.index}", count + 1, np.int32)
        part.offsets[0] = 0
        capacity = max(scratch.capacity(f"places{part.index}", np.uint32), 8 * count + self.tiles)
        while True:
            if capacity > _MAX_ENTRIES:
                raise ValueError(_TOO_LARGE)
            used = int(part.offsets[done])
            part.places = scratch.array(f"places{part.index}", capacity, np.uint32, keep=used)
            part.masks = scratch.array(f"masks{part.index}", capacity, np.uint16, keep=used)
            done = self.kernels.list_entries(
                done, count, self.rows, self.order, self._rects, self.tiles_x, part.start, words, part.offsets,
                per_tile, part.places, part.masks
            )  # fmt: skip
            if done == count:
                return
            capacity *= 2

    def forward(self, background: np.ndarray, alpha_max: float, colors: np.ndarray, alphas: np.ndarray) -> None:
        """Composites into `colors` [H, W, D] and `alphas` [H, W], four channels at a time."""
        parts = min(get_num_threads(), self.tiles)
        state = self._scratch.array("forward_state", (parts, plain.FORWARD_STATE), np.float32)
        self.tile_stop = self._scratch.array("tile_stop", self.tiles, np.int32)
        for channel in range(0, self.splats.channels, binning.CHANNELS):
            self._pack(channel)
            next_tile = np.zeros(1, np.int64)  # counter from which threads take their next tile
            args = (next_tile, background, channel, alpha_max, colors, alphas, self.tile_stop)
            run_parts(partial(self._run_tiles, self.kernels.forward, state, args), parts)

    def _run_tiles(self, kernel: Kernel, state: np.ndarray, args: tuple, part: int) -> None:
        kernel(self.rows, self.entries, self.tile_start, self.tile_order, self.tiles_x, state[part], *args)

    def backward(
        self, background: np.ndarray, alpha_max: float, colors: np.ndarray, alphas: np.ndarray,
        v_colors: np.ndarray, v_alphas: np.ndarray, absgrad: bool,
    ) -> SplatGradients:  # fmt: skip
        """Gradients of the splats from those of the picture."""
        grads = SplatGradients(self.splats, absgrad)
        parts = min(get_num_threads(), self.tiles)
        state = self._scratch.array("backward_state", (parts, plain.BACKWARD_STATE), np.float32)
        entry_rows = self._scratch.array("entry_rows", (len(self.entries), plain.GRADIENT_ROW), np.float32)
        sums = self._scratch.array("sums", (len(self.parts), plain.GRADIENT_ROW), np.float32)

        for channel in range(0, self.splats.channels, binning.CHANNELS):
            self._pack(channel)
            args = (
                np.zeros(1, np.int64), background, channel, alpha_max, colors, alphas, self.tile_stop, v_colors,
                v_alphas, absgrad, entry_rows
            )  # fmt: skip
            run_parts(partial(self._run_tiles, self.kernels.backward, state, args), parts)
            run_parts(partial(self._gather_part, channel, entry_rows, sums, grads.arrays()), len(self.parts))
        return grads

    def _gather_part(
        self, channel: int, entry_rows: np.ndarray, sums: np.ndarray, out: tuple[np.ndarray, ...], index: int
    ) -> None:
        p = self.parts[index]
        self.kernels.gather(
            p.start, p.stop - p.start, self.order, p.offsets, p.places, entry_rows, self.rows, channel, sums[index],
            *out
        )  # fmt: skip


class SplatGradients:
    """Gradients of one picture's splats; zero for those not drawn."""

    def __init__(self, splats: Splats, absgrad: bool) -> None:
        count = len(splats.depths)
        self.means2d = np.zeros((count, 2), np.float32)
        self.conics = np.zeros((count, 3), np.float32)
        self.colors = np.zeros(splats.colors.shape, np.float32)
        self.opacities = np.zeros(count, np.float32)
        self.depths = np.zeros(count, np.float32)
        self.absolute = np.zeros((count if absgrad else 0, 2), np.float32)

    def arrays(self) -> tuple[np.ndarray, ...]:
        return self.means2d, self.conics, self.colors, self.opacities, self.depths, self.absolute
