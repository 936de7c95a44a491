"""Depth and normals of the head: targets of the geometric loss (METHOD 5's L_Geo).

In: a fitted head, or frames and a model of the Hub. Out: depth and normal maps of the crop with a mask of valid pixels.
The offline default renders the fitted head's mesh; the paper's teacher is Sapiens, which transformers has in its second
version (`DepthTeacher`, `NormalTeacher`), beside Depth Anything and other depth models.

Depth grows away from the camera everywhere in this file. Normals have unit length and the camera's axes (OpenCV: x
right, y down, z away from the viewer), so what faces the camera has a negative z.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, product
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ...models.modeling_head import ParametricHead
from ...rendering.mesh import interpolate, rasterize_mesh
from ..tracking.head_track import HeadTrack, camera_vertices
from ..tracking.regions import head_mask

_SAPIENS = "sapiens2"  # gives points in space instead of a depth map
_BATCH = 4  # frames
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation


class HeadGeometry(NamedTuple):
    """Geometry of n frames.

    Attributes:
        depth: `[n, H, W]` float32 metres from the camera along its axis, 0 where there is no mesh.
        normals: `[n, H, W, 3]` float32, unit length, camera axes; 0 where there is no mesh.
        mask: `[n, H, W]` bool, the pixels for a loss: head and neck, without the scalp, which hair covers, and without
            the torso, which the mesh only approximates. All False in frames without a valid fit.
    """

    depth: np.ndarray
    normals: np.ndarray
    mask: np.ndarray


def head_geometry(
    track: HeadTrack,
    indices: Sequence[int],
    head: ParametricHead,
    size: int | tuple[int, int] | None = None,
    shown: np.ndarray | None = None,
) -> HeadGeometry:
    """Renders depth and normals of the fitted head.

    Args:
        track: the fit.
        indices: n frame numbers.
        head: the head that was fitted.
        size: pixels, one number for a square or (width, height); by default the track's.
        shown: `[n, H, W]` bool of that size, where the frame shows the person's skin and not, say, hair or a collar;
            the mask is restricted to it. From mattes it is `mattes >= 128`, better from regions `bare_head(labels)`.

    Raises:
        ValueError: `shown` has another shape.
    """
    camera = track.camera if size is None else track.camera.resize(size)
    shape = (len(indices), camera.height, camera.width)
    if shown is not None and shown.shape != shape:
        raise ValueError(f"shown: expected shape {shape}, got {shown.shape}.")
    faces = head.faces.cpu().numpy()
    geometry = HeadGeometry(np.zeros(shape, np.float32), np.zeros((*shape, 3), np.float32), np.zeros(shape, np.bool_))
    for row, vertices in enumerate(camera_vertices(track, indices, head)):
        buffers = rasterize_mesh(vertices, faces, camera.K, camera.width, camera.height)
        hit = buffers.face_index >= 0
        geometry.depth[row][hit] = buffers.depth[hit]
        of_vertices, from_inside = _mesh_normals(vertices, faces)
        geometry.normals[row] = _unit(interpolate(buffers, faces, of_vertices))
        geometry.normals[row][hit & from_inside[buffers.face_index]] *= -1
        if bool(track.valid[indices[row]]):
            geometry.mask[row] = head_mask(buffers, head, scalp=False)
    if shown is not None:
        np.logical_and(geometry.mask, shown, out=geometry.mask)
    return geometry


def standardise_depth(depth: Tensor, mask: Tensor) -> Tensor:
    """Depth with mean 0 and deviation 1 over the mask, as L_Geo compares it (METHOD 5); 0 elsewhere. Differentiable.

    Args:
        depth: `[..., H, W]`, each picture by itself. Scale and offset are lost, so a relative depth serves as well.
        mask: `[..., H, W]` bool; an empty one gives zeros.
    """
    depth, mask = torch.as_tensor(depth), torch.as_tensor(mask)
    weight = mask.to(depth.dtype)
    count = weight.sum((-2, -1), keepdim=True).clamp(min=1)
    depth = depth.where(mask, 0)  # 0 * inf is not 0
    centred = (depth - depth.sum((-2, -1), keepdim=True) / count) * weight
    variance = (centred * centred).sum((-2, -1), keepdim=True) / count
    return centred / (variance + 1e-12).sqrt()


def align_depth(depth: np.ndarray, reference: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A relative depth in metres: the scale and offset that bring it nearest to the fitted head's (least squares).

    Args:
        depth: `[H, W]` relative depth; reference: `[H, W]` metres; mask: `[H, W]` bool, where both are the head.

    Raises:
        ValueError: the mask is empty, or the two correlate negatively.
    """
    x, y = depth[mask].astype(np.float64), reference[mask].astype(np.float64)
    spread = ((x - x.mean()) ** 2).mean() if len(x) else 0.0
    scale = ((x - x.mean()) * (y - y.mean())).mean() / spread if spread > 0 else 0.0
    if scale <= 0:
        raise ValueError(
            f"depth: expected a relief that agrees with the reference on {len(x)} masked pixels, got slope "
            f"{scale:.3g}; if it grows towards the camera, give `inverse=True` to the teacher."
        )
    return (y.mean() + scale * (depth - x.mean())).astype(np.float32)


def normals_from_depth(depth: np.ndarray, K: np.ndarray) -> np.ndarray:
    """Normals of a metric depth map by central differences of the points behind the pixels.

    Args:
        depth: `[H, W]` metres.
        K: `[3, 3]` intrinsics in pixels.

    Returns:
        `[H, W, 3]` float32; 0 in the outermost pixels and where a neighbour has no depth (0 or not finite).
    """
    K = np.asarray(K, np.float64)
    height, width = depth.shape
    known = np.isfinite(depth) & (depth > 0)
    z = np.where(known, depth, 0.0)
    x = (np.arange(width) + 0.5 - K[0, 2]) / K[0, 0] * z
    y = (np.arange(height)[:, None] + 0.5 - K[1, 2]) / K[1, 1] * z
    points = np.stack([x, y, z], -1)
    normals = np.zeros((height, width, 3), np.float32)
    across, down = points[1:-1, 2:] - points[1:-1, :-2], points[2:, 1:-1] - points[:-2, 1:-1]
    inner = np.cross(down, across)
    inner[~(known[1:-1, 2:] & known[1:-1, :-2] & known[2:, 1:-1] & known[:-2, 1:-1])] = 0
    normals[1:-1, 1:-1] = _unit(inner)
    return normals


def match_axes(normals: np.ndarray, reference: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Normals with the signs of the axes chosen for the best agreement with the fitted head's.

    Teachers differ in the directions of y and z and do not document them; all eight choices are tried.

    Args:
        normals, reference: `[n, H, W, 3]`; mask: `[n, H, W]` bool.
    """
    products = (normals[mask] * reference[mask]).mean(0)  # each axis can be decided by itself
    signs = max(product((1.0, -1.0), repeat=3), key=lambda s: float(np.dot(s, products)))
    return normals * np.float32(signs)


class DepthTeacher:
    """Depth maps by a model of the Hub.

    Args:
        model_id: Hub id or folder for `AutoModelForDepthEstimation` (Depth Anything, DPT, GLPN) or
            `AutoModelForPointmapEstimation` (Sapiens 2).
        revision: its revision.
        inverse: whether the model's values grow towards the camera. By default according to its type: Depth Anything
            and DPT give inverse depth unless they are metric; a DPT does not say so: give `inverse=False`.

    Raises:
        ValueError: a model that this class cannot feed; OSError: it cannot be loaded.
    """

    def __init__(self, model_id: str, revision: str | None = None, inverse: bool | None = None) -> None:
        import transformers

        config = transformers.AutoConfig.from_pretrained(model_id, revision=revision)
        auto = "AutoModelForPointmapEstimation" if config.model_type == _SAPIENS else "AutoModelForDepthEstimation"
        self.model = getattr(transformers, auto).from_pretrained(model_id, revision=revision).eval()
        kind = getattr(config, "depth_estimation_type", "relative" if config.model_type == "dpt" else "metric")
        self.inverse = kind == "relative" if inverse is None else inverse
        self.source = model_id if revision is None else f"{model_id}@{revision}"
        self._prepare = _preparation(config, model_id, revision)

    def __call__(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """For each frame `[H, W, 3]` uint8 RGB its depth `[H, W]` float32, growing away from the camera.

        A metric model gives metres. An inverse depth comes back negated: over the relief of one head that is a relative
        depth but for scale and offset, which `standardise_depth` drops and `align_depth` finds.
        """
        for frame, outputs, box in _predictions(self.model, self._prepare, frames):
            if "pointmaps" in outputs:
                depth = outputs["pointmaps"][:, 2:]
                depth = depth / outputs["scales"][:, :, None, None] if "scales" in outputs else depth
            else:
                depth = outputs["predicted_depth"][:, None]
            depth = _to_frame(depth, box, frame)[..., 0]
            yield -depth if self.inverse else depth


class NormalTeacher:
    """Normal maps by a model of the Hub.

    Args:
        model_id: Hub id or folder for `AutoModelForNormalEstimation` (Sapiens 2, the paper's kind of teacher).
        revision: its revision.

    Raises:
        ValueError: a model that this class cannot feed; OSError: it cannot be loaded.
    """

    def __init__(self, model_id: str, revision: str | None = None) -> None:
        import transformers

        config = transformers.AutoConfig.from_pretrained(model_id, revision=revision)
        self.model = transformers.AutoModelForNormalEstimation.from_pretrained(model_id, revision=revision).eval()
        self.source = model_id if revision is None else f"{model_id}@{revision}"
        self._prepare = _preparation(config, model_id, revision)

    def __call__(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """For each frame `[H, W, 3]` uint8 RGB its normals `[H, W, 3]` float32, unit length, in the model's own axes;
        `match_axes` turns them into the camera's."""
        for frame, outputs, box in _predictions(self.model, self._prepare, frames):
            yield _unit(_to_frame(F.normalize(outputs["normals"], dim=1), box, frame))


# What a model sees of a frame: pixel values [1, 3, h, w], and the box (left, top, right, bottom; 0..1) that the frame
# fills in them.
_Prepared = tuple[Tensor, tuple[float, float, float, float]]


def _preparation(config: Any, model_id: str, revision: str | None) -> Callable[[Image.Image], _Prepared]:
    """How frames become a model's input: its own image processor, or Sapiens' letterbox, whose needs torchvision."""
    if config.model_type == _SAPIENS:
        size = config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        return lambda picture: _letterbox(picture, width, height)
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(model_id, revision=revision, backend="pil")
    if getattr(processor, "do_pad", False):
        raise ValueError(f"model_id: expected a model whose image processor does not pad, got {model_id}.")
    return lambda picture: (processor(images=picture, return_tensors="pt")["pixel_values"], (0.0, 0.0, 1.0, 1.0))


def _letterbox(picture: Image.Image, width: int, height: int) -> _Prepared:
    scale = min(width / picture.width, height / picture.height)
    inner = (round(picture.width * scale), round(picture.height * scale))
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    canvas = Image.new("RGB", (width, height))
    canvas.paste(picture.resize(inner, Image.Resampling.BILINEAR), (left, top))
    mean, deviation = (torch.tensor(x).view(3, 1, 1) for x in _IMAGENET)
    values = (torch.from_numpy(np.array(canvas)).permute(2, 0, 1) / 255 - mean) / deviation
    return values[None], (left / width, top / height, (left + inner[0]) / width, (top + inner[1]) / height)


def _predictions(
    model: torch.nn.Module, prepare: Callable[[Image.Image], _Prepared], frames: Iterable[np.ndarray]
) -> Iterator[tuple[np.ndarray, dict[str, Tensor], tuple[float, float, float, float]]]:
    """Each frame with the model's outputs for it (batch of 1) and the box of the frame in them."""
    remaining = iter(frames)
    while batch := list(islice(remaining, _BATCH)):
        values, boxes = zip(*(prepare(Image.fromarray(frame)) for frame in batch))
        with torch.inference_mode():
            outputs = model(pixel_values=torch.cat(values).to(model.device, model.dtype))
        found = {name: value.float().cpu() for name, value in outputs.items() if isinstance(value, Tensor)}
        for i, (frame, box) in enumerate(zip(batch, boxes)):
            yield frame, {name: value[i : i + 1] for name, value in found.items()}, box


def _to_frame(maps: Tensor, box: tuple[float, float, float, float], frame: np.ndarray) -> np.ndarray:
    """`[1, C, h, w]` cut to the box and resampled to the frame: `[H, W, C]`."""
    rows, columns = maps.shape[2:]
    left, top, right, bottom = (round(x * n) for x, n in zip(box, (columns, rows, columns, rows)))
    full = F.interpolate(maps[:, :, top:bottom, left:right], frame.shape[:2], mode="bilinear", align_corners=False)
    return full[0].permute(1, 2, 0).contiguous().numpy()


def _mesh_normals(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Area-weighted normals of the vertices `[V, 3]`, and which faces `[F]` the camera sees from inside."""
    corners = vertices[faces]
    of_faces = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    of_vertices = np.zeros_like(vertices)
    for axis in range(3):
        for corner in range(3):
            of_vertices[:, axis] += np.bincount(faces[:, corner], of_faces[:, axis], len(vertices))
    return _unit(of_vertices), (of_faces * corners[:, 0]).sum(-1) > 0


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Unit length along the last axis; zeros stay zeros."""
    length = np.sqrt(np.einsum("...i,...i", vectors, vectors))[..., None]
    return (vectors / np.where(length > 0, length, 1)).astype(np.float32)


__all__ = [
    "DepthTeacher", "HeadGeometry", "NormalTeacher", "align_depth", "head_geometry", "match_axes",
    "normals_from_depth", "standardise_depth",
]  # fmt: skip
