"""A clip in memory of somebody who does not exist: the demo person, thinned, drawn small under a known motion."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch

from emotag_hf import EmoTaGModel, FlameMotion, default_model_path
from emotag_hf.constants import EXPRESSION_NAMES
from emotag_hf.preprocessing.tracking.fit import default_camera
from emotag_hf.preprocessing.tracking.head_track import HeadTrack

SIZE, FRAMES = 128, 24


class ToyClip:
    """The part of `ProcessedClip` that training reads."""

    def __init__(self, frames: np.ndarray, mattes: np.ndarray, track: HeadTrack, background: np.ndarray):
        self._frames, self._mattes, self.track = frames, mattes, track
        self.background = (background, np.ones(background.shape[:2], bool))
        self.camera, self.valid, self.num_frames = track.camera, track.valid, len(frames)
        self.info = {"source": {"sha256": "a" * 64, "seconds": 1.0, "fps": 25.0, "width": SIZE, "height": SIZE},
                     "crop": {"width": SIZE, "height": SIZE}, "request": {"tracker": 1}}  # fmt: skip
        self.audio, self.read = None, set()

    def __len__(self) -> int:
        return self.num_frames

    def frame(self, index: int) -> np.ndarray:
        self.read.add(index)
        return self._frames[index].copy()

    def matte(self, index: int) -> np.ndarray:
        self.read.add(index)
        return self._mattes[index].copy()


def toy_motion(num_frames: int = FRAMES) -> FlameMotion:
    """A head that turns and speaks."""
    motion = FlameMotion.zeros(num_frames)
    t = torch.arange(num_frames) * 0.4
    motion.rotation[:, 1], motion.neck_pose[:, 0] = 0.12 * torch.sin(0.5 * t), 0.05 * torch.cos(0.7 * t)
    motion.jaw_pose[:, 0] = 0.09 * (1 - torch.cos(t))
    motion.expression[:, EXPRESSION_NAMES.index("mouthSmile_L")] = 0.4 * torch.sin(0.8 * t).clamp_min(0)
    motion.eyelids[num_frames // 3] = 0.9
    return motion


@lru_cache(maxsize=1)
def _drawn():
    model = EmoTaGModel.from_pretrained(default_model_path())
    count = model.gaussians.num_gaussians
    model.gaussians.resize(torch.arange(0, count, 6))
    motion, camera = toy_motion(), default_camera(SIZE, SIZE)
    with torch.no_grad():
        model.gaussians.log_scales += math.log(2.4)
        background = torch.full((SIZE, SIZE, 3), 0.3)
        drawn = model.render(model.pose(motion), camera, background)
        vertices = model.head(shape=model.shape[None], **motion.head_inputs()).vertices
        points = model.head.landmarks(vertices) @ camera.viewmat[:3, :3].T + camera.viewmat[:3, 3]
    pixels = points[..., :2] / points[..., 2:] * camera.K[0, 0] + camera.K[:2, 2]
    landmarks = torch.zeros(FRAMES, 478, 3)
    landmarks[:, :468, :2] = pixels
    frames = (drawn.images * 255).round().byte().numpy()
    mattes = (drawn.alphas[..., 0] * 255).round().byte().numpy()
    yes, none = torch.ones(FRAMES, dtype=torch.bool), torch.full((FRAMES,), math.nan)
    track = HeadTrack(motion, model.shape.clone(), camera, yes, yes.float(), none, none, landmarks, model.head.sha256)
    return frames, mattes, track, (background * 255).byte().numpy()


def toy_clip() -> ToyClip:
    """The clip; its arrays are the caller's own."""
    frames, mattes, track, background = _drawn()
    return ToyClip(frames.copy(), mattes.copy(), track, background)
