"""Semantic segmentation of a person: a fitted head and a matte in; labels face, hair, neck, torso and so on out.

The fitted mesh gives face, eyes, mouth, ears, scalp and neck. Foreground outside of the mesh is hair above the chin.
Below the chin, and where hair may cover the mesh, colour models decide. They are histograms of pixels in the same frame
that certainly are hair, skin or clothing (seeds).
"""

from __future__ import annotations

import numpy as np
import torch

from ...models.modeling_head import ParametricHead
from ...rendering.mesh import MeshBuffers, rasterize_mesh
from ...rendering.numba_runtime import kernel
from .head_track import HeadTrack, camera_vertices
from .masks import box_mean, combine, near

REGIONS = ("background", "face", "mouth", "eyes", "hair", "neck", "torso", "ears")
BACKGROUND, FACE, MOUTH, EYES, HAIR, NECK, TORSO, EARS = range(len(REGIONS))

# Regions of a head asset; later ones overwrite earlier ones, and missing ones are skipped.
_PARTS = (
    (HAIR, ("scalp",)),
    (EARS, ("ears",)),
    (NECK, ("neck",)),
    (TORSO, ("torso",)),
    (MOUTH, ("lips", "mouth_interior", "teeth_upper", "teeth_lower", "gums", "tongue")),
    (EYES, ("left_eye", "right_eye")),
)
_JAW = (58, 288, 152)  # landmarks: right and left corner of the jaw, chin
_JAW_TOLERANCE = 0.004  # metres; skin up to this far below the plane of the jaw still counts as face
# Areas on a neutral head of standard size (origin between the eyes, metres). Skin that hardly anybody's hair or beard
# covers: nose and cheeks, and the throat for shaded skin. Then the areas where hair may cover the face.
_BARE_SKIN = ((-0.045, 0.045), (-0.045, -0.012))  # x, y
_THROAT = (0.03, 0.03)  # |x|, distance below the jaw's plane
_FRINGE_ABOVE, _SIDE_BEYOND = 0.03, 0.058  # y, |x|
_TORSO_CORE = 0.05  # |x|; below the middle of the neck there is no hair

_FOREGROUND_ALPHA = 128  # of 255: pixels with this alpha or more are foreground
_BINS = 16  # per colour channel
_MIN_UNIFORM_SHARE = 0.01  # least share of a uniform distribution in each colour model
_UNIFORM_PIXELS = 60.0  # pixels; with this number of seed pixels the uniform share is a half

# In head heights on the picture (chin to top): distance below the chin, or to the side of the head's centre.
_EYES, _EAR_LOBES = -0.5, -0.3
_SHOULDERS = 0.75  # below the chin, pixels this far to the side are clothing
_HAIR_REACH = 0.9  # largest distance of hair from the head
_OUTLINE_TOLERANCE = 0.03  # tolerance of the mesh's outline
_MIN_HAIR_HALF_WIDTH = 0.016  # half of the least width at which hair counts as connected
_AVERAGING_RADIUS = 0.014  # radius over which log-likelihoods are averaged

# In nats per pixel.
_MIN_RATIO = 1.0  # least log-likelihood ratio that overrides the mesh's label
_CLOTH_PRIOR = 2.5  # log prior ratio of clothing to hair, one head height below the chin
_HAIR_PRIOR = 20.0  # log prior ratio of hair to clothing, one head height above the chin


def region_labels(
    track: HeadTrack, index: int, matte: np.ndarray, head: ParametricHead, frame: np.ndarray | None = None
) -> np.ndarray:
    """Labels the region of every pixel.

    Args:
        track: the fitted head; `index` is the frame's number in it.
        matte: `[H, W]` uint8 alpha of the person, in the track's size.
        head: the head that was fitted.
        frame: `[H, W, 3]` uint8 RGB. None uses geometry alone: pixels that the mesh covers get its label, other
            foreground is hair above the chin and torso below.

    Returns:
        `[H, W]` uint8, indices into `REGIONS`; in frames that are not valid all foreground is torso.

    Raises:
        ValueError: a picture's size differs from the track's.
    """
    size = (track.camera.height, track.camera.width)
    for name, picture in (("matte", matte), ("frame", frame)):
        if picture is not None and picture.shape[:2] != size:
            raise ValueError(f"{name}: expected {size[1]}x{size[0]} pixels as in the track, got {picture.shape[:2]}.")
    if not bool(track.valid[index]):
        return np.where(matte >= _FOREGROUND_ALPHA, np.uint8(TORSO), np.uint8(BACKGROUND))
    vertices = camera_vertices(track, [index], head)[0]
    buffers = rasterize_mesh(vertices, head.faces, track.camera.K, size[1], size[0])
    mesh, flags = (table[buffers.face_index] for table in _face_tables(head))  # -1, the last row: no mesh
    on_head = (mesh != BACKGROUND) & (mesh != TORSO)
    person = combine(matte, on_head) >= _FOREGROUND_ALPHA
    mesh[~person] = flags[~person] = 0
    if not on_head.any():
        return np.where(person, np.uint8(TORSO), np.uint8(BACKGROUND))
    chin = _landmarks(vertices, head)[_JAW[2]]
    chin_y = track.camera.K[1, 1].item() * chin[1] / chin[2] + track.camera.K[1, 2].item()
    return _Labelling(person, mesh, flags, on_head, chin_y).labels(frame)


def head_mask(buffers: MeshBuffers, head: ParametricHead, *, scalp: bool = True) -> np.ndarray:
    """`[H, W]` bool: where the mesh shows head or neck; with `scalp=False` without the scalp, which hair covers."""
    mesh = _face_tables(head)[0][buffers.face_index]
    mask = (mesh != BACKGROUND) & (mesh != TORSO)
    return mask if scalp else mask & (mesh != HAIR)


def face_regions(head: ParametricHead) -> np.ndarray:
    """`[F]` uint8, the index into `REGIONS` of each triangle of a head."""
    return _face_tables(head)[0][:-1]


def bare_head(labels: np.ndarray) -> np.ndarray:
    """Bool of the same shape: where `region_labels` has face, mouth, eyes, ears or neck."""
    return np.isin(labels, (FACE, MOUTH, EYES, EARS, NECK))


# Flags of mesh triangles: skin seed; shaded skin seed (throat); hair may cover it; clothing seed (chest).
_SKIN_SEED, _SHADED_SKIN_SEED, _MAY_BE_HAIR, _CLOTHING_SEED = 1, 2, 4, 8


def _landmarks(vertices: np.ndarray, head: ParametricHead) -> np.ndarray:
    """MediaPipe's 468 landmarks `[468, 3]` of vertices `[V, 3]`."""
    return head.landmarks(torch.as_tensor(vertices, device=head.v_template.device)[None])[0].cpu().numpy()


def _face_tables(head: ParametricHead) -> tuple[np.ndarray, np.ndarray]:
    """Label and flags `[F + 1]` uint8 of each face of a head; the last row is for pixels without mesh."""
    key = head.sha256
    if key not in _TABLES:
        _TABLES[key] = _make_tables(head)
    return _TABLES[key]


_TABLES: dict[str, tuple[np.ndarray, np.ndarray]] = {}


def _make_tables(head: ParametricHead) -> tuple[np.ndarray, np.ndarray]:
    labels = np.full(len(head.faces) + 1, FACE, np.uint8)
    flags = np.zeros_like(labels)
    template = head.v_template.cpu()
    centres = template[head.faces.cpu()].mean(1).numpy()
    x, y, _ = centres.T
    right, left, chin = _landmarks(template.numpy(), head)[list(_JAW)]
    down = np.cross(left - right, chin - right)
    down *= -np.sign(down[1]) / np.linalg.norm(down)
    under_jaw = (centres - chin) @ down
    labels[:-1][under_jaw > _JAW_TOLERANCE] = NECK
    for label, names in _PARTS:
        for name in set(names) & set(head.region_names):
            labels[head.region_faces(name).cpu().numpy()] = label
    labels[-1] = BACKGROUND
    face, bare = labels[:-1] == FACE, _BARE_SKIN
    skin = face & (x > bare[0][0]) & (x < bare[0][1]) & (y > bare[1][0]) & (y < bare[1][1])
    throat = (labels[:-1] == NECK) & (np.abs(x) < _THROAT[0]) & (under_jaw < _THROAT[1])
    flags[:-1][skin] |= _SKIN_SEED
    flags[:-1][throat] |= _SHADED_SKIN_SEED
    loose = face & ((y > _FRINGE_ABOVE) | (np.abs(x) > _SIDE_BEYOND))
    flags[:-1][loose | np.isin(labels[:-1], (EARS, NECK, TORSO))] |= _MAY_BE_HAIR
    flags[:-1][(labels[:-1] == TORSO) & (np.abs(x) < _TORSO_CORE)] |= _CLOTHING_SEED
    return labels, flags


class _Labelling:
    """The labelling of one frame. Distances are in head heights (chin to top of the head, on the picture).

    Args:
        person, on_head: `[H, W]` bool, the foreground and where the mesh shows head or neck.
        mesh, flags: `[H, W]` uint8, label and flags of the mesh, 0 outside of it.
        chin_y: pixels.
    """

    def __init__(
        self, person: np.ndarray, mesh: np.ndarray, flags: np.ndarray, on_head: np.ndarray, chin_y: float
    ) -> None:
        rows = np.nonzero(on_head.any(1))[0]
        self.person, self.mesh, self.flags = person, mesh, flags
        self.height = max(chin_y - rows[0], 1.0)
        self.below = (np.arange(len(person), dtype=np.float32)[:, None] + 0.5 - chin_y) / self.height
        columns = np.nonzero((on_head & (self.below < 0)).any(0))[0]
        centre = columns.mean() if len(columns) else person.shape[1] / 2
        self.aside = np.abs(np.arange(person.shape[1], dtype=np.float32) + 0.5 - centre) / self.height
        self.beyond = person & (mesh == BACKGROUND)
        self.loose = person & (flags & _MAY_BE_HAIR > 0)
        self.around = near(on_head, self._pixels(_HAIR_REACH))
        self.joined = _connected_to(on_head & person, person)
        self.bare = np.ones_like(person)

    def labels(self, frame: np.ndarray | None) -> np.ndarray:
        """The labels `[H, W]` uint8; without a frame by geometry alone."""
        out = self._by_geometry()
        without_hair = np.where(self.beyond & (out == HAIR), np.uint8(TORSO), out)
        if frame is not None:
            self._by_colour(frame, out, without_hair)
        self._remove_unconnected_hair(out, without_hair)
        return out

    def _by_geometry(self) -> np.ndarray:
        out, above = self.mesh.copy(), self.below < 0
        out[self.beyond] = TORSO
        out[self.beyond & above & self.around] = HAIR
        out[self.beyond & above & ~self.joined] = BACKGROUND  # another person
        return out

    def _by_colour(self, frame: np.ndarray, out: np.ndarray, without_hair: np.ndarray) -> None:
        """Updates labels by colour where geometry is ambiguous; `without_hair` is the second choice for hair pixels."""
        torso = (out == TORSO) & (self.below > 0)
        outside = self.beyond & ~near(self.person & ~self.beyond, self._pixels(_OUTLINE_TOLERANCE))
        seeds = [
            (out == HAIR) & (outside | (self.mesh == HAIR)) & (self.below < _EAR_LOBES),
            self.flags & _SKIN_SEED > 0,
            self.flags & _SHADED_SKIN_SEED > 0,
            (self.flags & _CLOTHING_SEED > 0) | (torso & (self.aside > _SHOULDERS)),
        ]
        hair, skin, shade, cloth = _log_likelihoods(frame, seeds, self._pixels(_AVERAGING_RADIUS))
        under = np.where(self.mesh == NECK, np.maximum(np.maximum(skin, shade), cloth), skin)
        covered = self.loose & (self.mesh != TORSO) & (hair > under + _MIN_RATIO)
        collar = (self.mesh == NECK) & (cloth > np.maximum(skin, shade) + _MIN_RATIO)
        self.bare = np.maximum(skin, shade) > cloth + _MIN_RATIO
        low = (torso | (self.beyond & (out == HAIR) & (self.below > _EAR_LOBES))) & self.around & ~seeds[3]
        prior = np.where(self.below < 0, _HAIR_PRIOR, _CLOTH_PRIOR) * self.below
        hanging = low & (hair > cloth + prior)  # the prior changes sign at the chin: raised shoulders may be above it
        ear = self.beyond & (out == HAIR) & ~outside & (skin > hair + _MIN_RATIO)
        out[collar] = without_hair[collar] = out[low] = TORSO
        out[covered | hanging] = HAIR
        self._label_from_mesh_nearby(out, ear)

    def _remove_unconnected_hair(self, out: np.ndarray, without_hair: np.ndarray) -> None:
        """Removes hair that is not connected to the hair of the upper head, or only by a thin bridge."""
        radius = self._pixels(_MIN_HAIR_HALF_WIDTH)
        hair = out == HAIR
        thick = hair & ~near(~hair, radius)
        kept = near(_connected_to(thick & (self.below < _EAR_LOBES), thick), radius + 1) | (self.below < _EYES)
        lost = hair & ~kept
        out[lost] = without_hair[lost]
        self._label_from_mesh_nearby(out, lost & self.beyond & self.bare & (self.below < 0))

    def _label_from_mesh_nearby(self, out: np.ndarray, pixels: np.ndarray) -> None:
        """Gives pixels near the mesh's outline the label of the mesh nearby."""
        for label in (NECK, EARS, FACE):
            out[pixels & near(self.mesh == label, self._pixels(_OUTLINE_TOLERANCE))] = label

    def _pixels(self, heights: float) -> int:
        return max(1, round(heights * self.height))


def _log_likelihoods(frame: np.ndarray, seeds: list[np.ndarray], radius: int) -> np.ndarray:
    """Log-likelihood `[n, H, W]` of each pixel's colour under the colours of each seed mask, averaged over a window."""
    levels = frame.astype(np.int32) * _BINS >> 8
    bins = (levels[..., 0] * _BINS + levels[..., 1]) * _BINS + levels[..., 2]
    planes = np.empty((len(seeds), *bins.shape), np.float32)
    for plane, seed in zip(planes, seeds):
        counts = np.bincount(bins[seed], minlength=_BINS**3).astype(np.float32).reshape((_BINS,) * 3)
        for _ in range(3):  # smooths the histogram with (1, 2, 1) / 4 along each axis in turn
            padded = np.pad(counts, ((1, 1), (0, 0), (0, 0)))
            counts = (0.25 * padded[:-2] + 0.5 * padded[1:-1] + 0.25 * padded[2:]).transpose(1, 2, 0)
        uniform_share = max(
            _MIN_UNIFORM_SHARE, _UNIFORM_PIXELS / (counts.sum() + _UNIFORM_PIXELS)
        )  # equal for large seeds
        density = (1 - uniform_share) * counts / max(counts.sum(), 1) + uniform_share / _BINS**3
        plane[...] = np.log(density).ravel()[bins]
    return box_mean(planes, radius)


def _connected_to(seeds: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The connected components of `mask` `[H, W]` bool that contain a seed."""
    out = np.zeros(mask.shape, np.bool_)
    _flood(np.ascontiguousarray(seeds), np.ascontiguousarray(mask), out, np.empty(mask.size, np.int32))
    return out


@kernel("void(boolean[:,::1], boolean[:,::1], boolean[:,::1], int32[::1])")
def _flood(seeds, mask, out, stack):  # pragma: no cover - compiled
    height, width = mask.shape
    count = 0
    for y in range(height):
        for x in range(width):
            if seeds[y, x] and mask[y, x]:
                out[y, x] = True
                stack[count] = y * width + x
                count += 1
    while count > 0:
        count -= 1
        y, x = stack[count] // width, stack[count] % width
        for side in range(4):
            v = y + (side == 0) - (side == 1)
            u = x + (side == 2) - (side == 3)
            if 0 <= v < height and 0 <= u < width and mask[v, u] and not out[v, u]:
                out[v, u] = True
                stack[count] = v * width + u
                count += 1


__all__ = ["REGIONS", "bare_head", "face_regions", "head_mask", "region_labels"]
