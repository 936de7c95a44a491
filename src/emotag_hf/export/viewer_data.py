"""Compressed data for the viewer: an animated mesh, and Gaussians bound to its triangles (METHOD 2).

In: a model and T frames of motion. Out: a header (JSON values) and one deflated block of arrays.

Nothing is stored per Gaussian and frame. The mesh is a mean and principal components over these frames, with codes per
frame; inner-mouth Gaussians and correctives are linear in their own codes, as in the model. The page poses the
Gaussians as `modeling_gaussians.pose_torch` does. Most arrays are quantised to 16 bits, all low bytes before all high
bytes, which compresses better.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..models.modeling_emotag import EmoTaGModel
from ..outputs import FlameMotion

MAX_FRAMES = 4500  # three minutes at 25 fps; longer pages open too slowly
TOLERANCE = 1e-5  # metres, allowed RMS error of a vertex: 1/80 px in a 512 px portrait
_BASIS_FRAMES = 400  # frames that the components are found on, evenly spaced over the motion
_POSE_CHUNK = 64
_LEVELS = 65535  # steps of a 16-bit number


@dataclass
class Packed:
    """Arrays for the page. `header` has for each: name, kind, shape, offset in bytes, and for 16 bits `low`, `step`."""

    header: list[dict[str, Any]] = field(default_factory=list)
    blocks: list[bytes] = field(default_factory=list)
    size: int = 0

    def add_floats(self, name: str, values: np.ndarray) -> None:
        """As float32."""
        self._add({"name": name, "kind": "f32", "shape": list(values.shape)}, values.astype("<f4").view(np.uint8), 4)

    def add_indices(self, name: str, values: np.ndarray) -> None:
        """As uint32."""
        self._add({"name": name, "kind": "u32", "shape": list(values.shape)}, values.astype("<u4").view(np.uint8), 4)

    def add_quantised(self, name: str, values: np.ndarray, finest: float = 0.0) -> None:
        """As 16-bit numbers `low + step · q`; the step is the range's 65,535th part, but not below `finest`."""
        low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
        step = max((high - low) / _LEVELS, finest) or 1.0
        # a signed number around zero: small values then have the same high byte
        middle = round((0.0 - low) / step) if low < 0 < high else 0
        low = -middle * step if middle else low
        q = np.rint((values - low) / step).clip(0, _LEVELS).astype("<u2")
        about = {"name": name, "kind": "q16", "shape": list(values.shape), "low": low, "step": step}
        self._add(about, q.view(np.uint8), 2)

    def _add(self, about: dict[str, Any], raw: np.ndarray, width: int) -> None:
        planes = np.ascontiguousarray(raw.reshape(-1, width).T)
        self.header.append(about | {"offset": self.size})
        self.blocks.append(planes.tobytes())
        self.size += planes.size

    def deflated(self) -> bytes:
        """All arrays as a zlib stream."""
        packer = zlib.compressobj(9)
        return b"".join([*(packer.compress(block) for block in self.blocks), packer.flush()])


@torch.no_grad()
def pack_motion(model: EmoTaGModel, motion: FlameMotion) -> Packed:
    """Packs an animated avatar.

    Raises:
        ValueError: more than `MAX_FRAMES` frames.
    """
    if not 1 <= len(motion) <= MAX_FRAMES:
        raise ValueError(
            f"motion: expected 1 to {MAX_FRAMES} frames for a viewer, got {len(motion)}; export a part of it."
        )
    gaussians, packed = model.gaussians, Packed()
    # Only the triangles with Gaussians are stored.
    used_faces, binding = gaussians.binding.cpu().unique(return_inverse=True)
    used_vertices, corners = model.head.faces.cpu()[used_faces].unique(return_inverse=True)
    packed.add_indices("corners", corners.numpy())
    packed.add_indices("binding", binding.numpy())
    _add_mesh(packed, _vertices(model, motion, used_vertices))

    packed.add_quantised("means", _array(gaussians.means))
    packed.add_quantised("quats", _array(torch.nn.functional.normalize(gaussians.quats, dim=-1)))
    packed.add_quantised("log_scales", _array(gaussians.log_scales))
    packed.add_quantised("opacities", _array(gaussians.opacity_logits.sigmoid()))
    packed.add_quantised("colors", _array(gaussians.colors))
    basis = None if motion.mouth_code is None else model.mouth_basis()
    if basis is not None and bool(basis.any()):
        packed.add_quantised("mouth_basis", _array(basis.permute(1, 0, 2)))  # [R, Nm, 9]
        packed.add_floats("mouth_codes", _array(motion.mouth_code))
    if model.expression_code is not None:
        packed.add_quantised("corrective_means", _array(gaussians.corrective_means.permute(1, 0, 2)))  # [K, N, 3]
        packed.add_quantised("corrective_colors", _array(gaussians.corrective_colors.permute(1, 0, 2)))
        codes = model.expression_code(motion.to(device=gaussians.means.device))
        packed.add_floats("corrective_codes", _array(codes))
    return packed


def _vertices(model: EmoTaGModel, motion: FlameMotion, used: torch.Tensor) -> np.ndarray:
    """`[T, V', 3]` float32 of the vertices that are used."""
    device = model.gaussians.means.device
    parts = []
    for start in range(0, len(motion), _POSE_CHUNK):
        inputs = motion[start : start + _POSE_CHUNK].to(device=device).head_inputs()
        parts.append(_array(model.head(shape=model.shape[None], **inputs).vertices[:, used.to(device)]))
    return np.concatenate(parts)


def _add_mesh(packed: Packed, vertices: np.ndarray) -> None:
    """Adds mean, components and codes of `vertices [T, V', 3]`, as many as `TOLERANCE` requires. Overwrites
    `vertices`."""
    offsets = vertices.reshape(len(vertices), -1)
    mean = offsets.mean(0, dtype=np.float64).astype(np.float32)
    offsets -= mean
    some = offsets[np.unique(np.linspace(0, len(offsets) - 1, _BASIS_FRAMES).round().astype(int))].astype(np.float64)
    # Few frames, many vertices: the small matrix has the same components.
    energies, turns = np.linalg.eigh(some @ some.T)
    energies, turns = energies[::-1].clip(0), turns[:, ::-1]
    left_over = np.sqrt((energies.sum() - np.cumsum(energies)).clip(0) / some.size)  # metres, root of the mean square
    count = int(np.argmax(left_over < TOLERANCE)) + 1 if energies.sum() > 0 else 0
    directions = (turns[:, :count].T @ some) / np.sqrt(energies[:count, None])
    codes = offsets @ directions.T.astype(np.float32)
    # Codes of at most 1 make a direction's numbers metres, which one step fits.
    reach = np.abs(codes).max(0, initial=1e-9).clip(1e-9)
    packed.add_floats("vertex_mean", mean.reshape(-1, 3))
    packed.add_quantised("vertex_basis", directions * reach[:, None], finest=TOLERANCE / 4)
    packed.add_floats("vertex_codes", codes / reach)


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().float().numpy()


__all__ = ["MAX_FRAMES", "Packed", "pack_motion"]
