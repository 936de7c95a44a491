"""The training data of one processed clip: frames, mattes, background and posed head.

In: a `ProcessedClip` (or anything with its interface) and the frames that may be trained on. Out: images and weights by
frame and size. Other frames are never read, which METHOD 7's tests check by corrupting them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...models.modeling_head import ParametricHead
from ...outputs import FlameMotion
from ...preprocessing.data.clip import ProcessedClip
from ...preprocessing.features.geometry import head_geometry
from ...preprocessing.tracking.photometric import face_weight, shrunk
from ...rendering.cameras import Camera

_SPREAD = {"rotation": 0.1, "neck_pose": 0.1, "jaw_pose": 0.05, "expression": 0.3, "eyelids": 0.3, "translation": 0.02}


class TrainingScene:
    """The training data of one clip.

    Args:
        clip: a processed clip.
        train: numbers of the training frames; those without a valid head are left out.
        head: the parametric head; None is the open head.

    Raises:
        ValueError: no frame is left, or the track belongs to another head.
    """

    def __init__(self, clip: ProcessedClip, train: Sequence[int], head: ParametricHead | None = None):
        self.clip, self.head = clip, head or ParametricHead.from_asset()
        self.track, self.camera = clip.track, clip.camera
        if self.track.head_sha256 != self.head.sha256:
            raise ValueError("clip: its track belongs to another head than the one given; prepare the video again.")
        valid = self.track.valid
        self.train = [int(i) for i in train if bool(valid[i])]
        if not self.train:
            raise ValueError("train: expected at least one frame with a face, there is none.")
        self.motion: FlameMotion = self.track.motion
        self.shape = self.track.shape
        self.background = torch.from_numpy(clip.background[0]).float() / 255
        self._pictures: dict[tuple[int, int], Tensor] = {}
        self._mattes: dict[tuple[int, int], Tensor] = {}
        self._geometry: dict[tuple[int, int], tuple[Tensor, Tensor, Tensor]] = {}

    def frame(self, index: int) -> np.ndarray:
        """`[H, W, 3]` uint8."""
        return self._cached(self._pictures, index, self.camera.height, self.clip.frame).numpy()

    def matte(self, index: int) -> np.ndarray:
        """`[H, W]` uint8."""
        return self._cached(self._mattes, index, self.camera.height, self.clip.matte).numpy()

    def picture(self, index: int, camera: Camera) -> Tensor:
        """`[h, w, 3]` in [0, 1], of `camera`'s size."""
        return self._sized(self._pictures, index, camera, self.clip.frame).float() / 255

    def alpha(self, index: int, camera: Camera) -> Tensor:
        """`[h, w]` in [0, 1], the matte at `camera`'s size."""
        return self._sized(self._mattes, index, camera, self.clip.matte).float() / 255

    def weight(self, index: int, camera: Camera, face: float) -> Tensor:
        """`[h, w]`: `face` in the face's box, 1 elsewhere."""
        return face_weight(self.track.landmarks[index], self.camera, camera, face)

    def geometry(self, index: int, camera: Camera) -> tuple[Tensor, Tensor, Tensor]:
        """Depth `[h, w]` metres, normals `[h, w, 3]` and mask `[h, w]` of the tracked head, where the matte is."""
        if (index, camera.height) not in self._geometry:
            shown = self.alpha(index, camera).numpy() > 0.5
            made = head_geometry(self.track, [index], self.head, (camera.width, camera.height), shown[None])
            half = (np.float32, np.float16, np.bool_)  # normals take the most room
            self._geometry[index, camera.height] = tuple(
                torch.from_numpy(plane[0].astype(dtype)) for plane, dtype in zip(made, half)
            )
        depth, normals, mask = self._geometry[index, camera.height]
        return depth, normals.float(), mask

    def apart(self, count: int) -> list[int]:
        """Up to `count` training frames that differ most in pose, mouth and eyelids; the first is the most typical
        one."""
        rows = torch.cat([getattr(self.motion, name)[self.train] / scale for name, scale in _SPREAD.items()], 1)
        chosen = [int((rows - rows.median(0).values).norm(dim=1).argmin())]
        away = (rows - rows[chosen[0]]).norm(dim=1)
        while len(chosen) < min(count, len(rows)):
            chosen.append(int(away.argmax()))
            away = torch.minimum(away, (rows - rows[chosen[-1]]).norm(dim=1))
        return [self.train[i] for i in chosen]

    @torch.no_grad()
    def vertices(self, index: int) -> Tensor:
        """`[V, 3]` metres, world: the tracked head."""
        return self.head(shape=self.shape[None], **self.motion[index : index + 1].head_inputs()).vertices[0]

    def _cached(self, cache: dict, index: int, height: int, read) -> Tensor:
        if (index, height) not in cache:
            cache[index, height] = torch.from_numpy(read(index))
        return cache[index, height]

    def _sized(self, cache: dict, index: int, camera: Camera, read) -> Tensor:
        """Stored as bytes, because floats would take half a gigabyte."""
        if (index, camera.height) not in cache:
            full = self._cached(cache, index, self.camera.height, read)
            planes = full if full.dim() == 3 else full[..., None]
            small = shrunk(planes.float(), camera.width, camera.height).round().byte()
            cache[index, camera.height] = small if full.dim() == 3 else small[..., 0]
        return cache[index, camera.height]


__all__ = ["TrainingScene"]
