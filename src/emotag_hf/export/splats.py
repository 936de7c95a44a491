"""One posed frame as a splat file for other programs: 3DGS PLY, SuperSplat's compressed PLY, antimatter15's `.splat`.

In: `PosedGaussians`. Out: a file. All three are written with numpy, without CUDA and gsplat; the tests compare them
with gsplat's exporter. Differences from gsplat 1.5: the PLY has normals (zeros), which the original 3DGS viewer reads,
and a chunk of equal values does not divide by zero.

World: metres, y up, the head looks along +z, the person's left at +x, as everywhere in this package. 3DGS scenes come
from COLMAP, whose y points down, and most viewers expect that: `y_down` turns the head by 180 degrees about z.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch

from ..outputs import PosedGaussians
from ..rendering.spherical_harmonics import SH_C0
from .files import check_target, pick_format, write_bytes

SPLAT_FORMATS = ("ply", "compressed.ply", "splat")
_CHUNK = 256  # Gaussians of a compressed PLY that share their ranges
_MIN_OPACITY = 1 / 255  # the rasteriser skips what is fainter; a compressed PLY leaves it out
_LOG_SCALES = (-20.0, 20.0)  # the range that readers of compressed PLY expect
# Effect of a rotation by 180 degrees about z on the first nine harmonics, in the order of
# `rendering.spherical_harmonics`: those with an odd number of x and y change sign.
_SH_HALF_TURN = np.array([1, -1, 1, -1, 1, -1, 1, -1, 1], np.float32)


@dataclass(frozen=True)
class Splats:
    """Gaussians as 3DGS files hold them, float32.

    Args:
        means: `[N, 3]` metres. quats: `[N, 4]` wxyz, unit. log_scales: `[N, 3]` log of metres. logits: `[N]`, opacity
            before the sigmoid. sh: `[N, K, 3]` spherical harmonics, K = 1, 4 or 9; colour = 0.5 + C0 · sh[:, 0] + ...
    """

    means: np.ndarray
    quats: np.ndarray
    log_scales: np.ndarray
    logits: np.ndarray
    sh: np.ndarray

    @classmethod
    def of(cls, posed: PosedGaussians, frame: int = 0, y_down: bool = False) -> Splats:
        """One frame of posed Gaussians.

        Raises:
            ValueError: there is no such frame.
        """
        check_frame(frame, len(posed.means))
        means, scales = _array(posed.means[frame]), _array(posed.scales[frame])
        quats = _array(torch.nn.functional.normalize(posed.quats[frame], dim=-1))
        colors = _array(posed.frame_colors(frame))
        sh = colors if posed.sh_degree else ((colors - 0.5) / np.float32(SH_C0))[:, None]
        # Clamped, because logits of 0 and 1 are infinite.
        opacities = np.clip(_array(posed.opacities).astype(np.float64), 1e-7, 1 - 1e-7)
        logits = np.log(opacities / (1 - opacities)).astype(np.float32)
        if y_down:
            means = means * np.float32([-1, -1, 1])
            w, x, y, z = quats.T
            quats = np.stack([-z, -y, x, w], 1)  # (0, 0, 0, 1) * q: half a turn about z
            sh = sh * _SH_HALF_TURN[: sh.shape[1], None]
        # avoids the logarithm of 0
        return cls(means, quats, np.log(np.maximum(scales, 1e-12)), logits, sh)

    def __len__(self) -> int:
        return len(self.means)

    def __getitem__(self, index: np.ndarray) -> Splats:
        return Splats(*(part[index] for part in (self.means, self.quats, self.log_scales, self.logits, self.sh)))

    @property
    def opacities(self) -> np.ndarray:
        """`[N]` in [0, 1]."""
        return 1 / (1 + np.exp(-self.logits))

    @property
    def rgb(self) -> np.ndarray:
        """`[N, 3]` colours of the first harmonic alone, about [0, 1]."""
        return self.sh[:, 0] * np.float32(SH_C0) + np.float32(0.5)


def check_frame(frame: int, count: int) -> int:
    """Returns `frame` if it is one of `count` frames. Raises ValueError."""
    if isinstance(frame, bool) or not isinstance(frame, int) or not 0 <= frame < count:
        raise ValueError(f"frame: expected a whole number from 0 to {count - 1}, got {frame!r}.")
    return frame


def write_splats(
    posed: PosedGaussians,
    path: str | os.PathLike,
    *,
    frame: int = 0,
    format: str | None = None,
    y_down: bool = False,
) -> str:
    """Writes the Gaussians of one frame for splat viewers and editors; returns the path.

    Args:
        posed: what `EmoTaGModel.pose` gave.
        path: `.ply`, `.compressed.ply` or `.splat`; an existing file is replaced only when the new one is complete.
        frame: index of the frame, from 0.
        format: `"ply"` (exact, 68 bytes a Gaussian), `"compressed.ply"` (16), `"splat"` (32, no view-dependent
            colours); None uses the suffix.
        y_down: turns the Gaussians for viewers that expect COLMAP's axes, which would show the head upside down.

    Raises:
        ValueError: no such frame or format.
        FileNotFoundError, PermissionError, OSError: it cannot be written; no partial file is left.
    """
    kind = pick_format(path, format, SPLAT_FORMATS)
    check_target(path)
    encode = {"ply": to_ply, "compressed.ply": to_compressed_ply, "splat": to_splat}[kind]
    return os.fspath(write_bytes(path, [encode(Splats.of(posed, frame, y_down))]))


def to_ply(splats: Splats) -> bytes:
    """The PLY that 3D Gaussian Splatting writes, binary, little-endian; exact."""
    rest = splats.sh[:, 1:].transpose(0, 2, 1).reshape(len(splats), -1)  # all of red, then green, then blue
    names = ["x", "y", "z", "nx", "ny", "nz", *(f"f_dc_{i}" for i in range(3))]
    names += [*(f"f_rest_{i}" for i in range(rest.shape[1])), "opacity"]
    names += [*(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]
    columns = [splats.means, np.zeros_like(splats.means), splats.sh[:, 0], rest, splats.logits[:, None]]
    columns += [splats.log_scales, splats.quats]
    header = _header([("vertex", len(splats), "float", names)])
    return header + np.concatenate(columns, 1).astype("<f4").tobytes()


def to_splat(splats: Splats) -> bytes:
    """antimatter15's format: 32 bytes a Gaussian, the most visible first, colours and rotations in 8 bits."""
    order = np.argsort(-splats.opacities * np.exp(splats.log_scales.sum(1)), kind="stable")
    splats = splats[order]
    rows = np.zeros(len(splats), [("mean", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("rotation", "u1", 4)])
    rows["mean"], rows["scale"] = splats.means, np.exp(splats.log_scales)
    rows["rgba"] = np.rint(np.concatenate([splats.rgb, splats.opacities[:, None]], 1).clip(0, 1) * 255)
    rows["rotation"] = np.rint(splats.quats * 128 + 128).clip(0, 255)
    return rows.tobytes()


def to_compressed_ply(splats: Splats) -> bytes:
    """SuperSplat's compressed PLY: 16 bytes a Gaussian (and one more for each higher harmonic of a colour), with value
    ranges per chunk of 256 neighbours. Invisible Gaussians are left out."""
    splats = splats[splats.opacities > _MIN_OPACITY]
    splats = splats[np.argsort(_morton(splats.means), kind="stable")]
    starts = np.arange(0, len(splats), _CHUNK)
    log_scales = splats.log_scales.clip(*_LOG_SCALES)
    shares, ranges = [], []
    for values in (splats.means, log_scales, splats.rgb):
        low = np.minimum.reduceat(values, starts) if len(starts) else values
        high = np.maximum.reduceat(values, starts) if len(starts) else values
        own_low, own_high = (np.repeat(x, _CHUNK, 0)[: len(splats)] for x in (low, high))
        width = own_high - own_low
        shares.append(np.divide(values - own_low, width, out=np.zeros_like(values), where=width > 0))
        ranges += [low, high]
    packed = [
        _pack(shares[0], (11, 10, 11)),
        _pack_rotation(splats.quats),
        _pack(shares[1], (11, 10, 11)),
        _pack(np.concatenate([shares[2], splats.opacities[:, None]], 1), (8, 8, 8, 8)),
    ]
    axes = ("x", "y", "z")
    chunk_names = [f"{end}_{axis}" for end in ("min", "max") for axis in axes]
    chunk_names += [f"{end}_scale_{axis}" for end in ("min", "max") for axis in axes]
    chunk_names += [f"{end}_{channel}" for end in ("min", "max") for channel in "rgb"]
    vertex_names = ["packed_position", "packed_rotation", "packed_scale", "packed_color"]
    elements = [("chunk", len(starts), "float", chunk_names), ("vertex", len(splats), "uint", vertex_names)]
    body = np.concatenate(ranges, 1).astype("<f4").tobytes() + np.stack(packed, 1).astype("<u4").tobytes()
    rest = splats.sh[:, 1:].transpose(0, 2, 1).reshape(len(splats), -1)
    if rest.shape[1]:
        elements.append(("sh", len(splats), "uchar", [f"f_rest_{i}" for i in range(rest.shape[1])]))
        body += ((rest / 8 + 0.5) * 256).clip(0, 255).astype(np.uint8).tobytes()
    return _header(elements) + body


def _header(elements: list[tuple[str, int, str, list[str]]]) -> bytes:
    lines = ["ply", "format binary_little_endian 1.0"]
    for name, count, kind, properties in elements:
        lines.append(f"element {name} {count}")
        lines += [f"property {kind} {p}" for p in properties]
    return "\n".join([*lines, "end_header", ""]).encode("ascii")


def _pack(shares: np.ndarray, bits: tuple[int, ...]) -> np.ndarray:
    """`[N, len(bits)]` in [0, 1] to one uint32 each, the first in the highest bits."""
    packed = np.zeros(len(shares), np.uint32)
    for column, width in zip(shares.T, bits):
        top = (1 << width) - 1
        packed = (packed << np.uint32(width)) | np.floor(column.clip(0, 1) * top + 0.5).astype(np.uint32)
    return packed


def _pack_rotation(quats: np.ndarray) -> np.ndarray:
    """The largest component's index in 2 bits, the other three in 10 each; its sign is made positive."""
    largest = np.abs(quats).argmax(1)
    row = np.arange(len(quats))
    quats = quats * np.where(quats[row, largest] < 0, -1, 1)[:, None]
    others = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])[largest]
    shares = quats[row[:, None], others] * (0.5 * np.sqrt(2)) + 0.5
    return (largest.astype(np.uint32) << np.uint32(30)) | _pack(shares, (10, 10, 10))


def _morton(means: np.ndarray) -> np.ndarray:
    """`[N]` Morton keys, which sort neighbours in space next to each other: ten interleaved bits of x, y and z each."""
    low, high = means.min(0, initial=0), means.max(0, initial=0)
    cells = ((means - low) / np.maximum(high - low, 1e-12) * 1023).astype(np.uint64)
    keys = np.zeros(len(means), np.uint64)
    for bit in range(10):
        for axis in range(3):
            keys |= ((cells[:, axis] >> np.uint64(bit)) & np.uint64(1)) << np.uint64(3 * bit + axis)
    return keys


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().float().numpy()


__all__ = ["SPLAT_FORMATS", "Splats", "check_frame", "to_compressed_ply", "to_ply", "to_splat", "write_splats"]
