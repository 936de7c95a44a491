"""The landmarks of a face that nods and talks, as the head itself has them: for tests without a face to be seen."""

from __future__ import annotations

import numpy as np
import torch

from emotag_hf.models.modeling_head import ParametricHead
from emotag_hf.outputs import FlameMotion
from emotag_hf.preprocessing.tracking.head_track import FaceLandmarks
from emotag_hf.rendering.cameras import Camera

WIDTH, HEIGHT = 320, 240
HEAD = ParametricHead.from_asset()


def moves(count: int) -> FlameMotion:
    """Nodding and talking."""
    motion = FlameMotion.zeros(count)
    time = torch.arange(count) / 25
    motion.jaw_pose[:, 0] = 0.1 + 0.1 * torch.sin(9 * time)
    motion.rotation[:, 1] = 0.1 * torch.sin(3 * time)
    return motion


def landmarks_of(
    count: int, width: int = WIDTH, height: int = HEIGHT, size: float = 1.0, x: float = 0.0, y: float = 0.0
):
    """MediaPipe's points of a nodding, talking head, as a camera sees it; `size` 1 is the face of a portrait, `x` and
    `y` shift it in parts of the picture's height."""
    camera = Camera.portrait((width, height), distance=1.44 / size, focal=4.0 * min(width, height))
    motion = moves(count)
    with torch.no_grad():
        vertices = HEAD(**motion.head_inputs()).vertices
        points = HEAD.landmarks(vertices)
        eyes = [vertices[:, torch.as_tensor(HEAD.region(n))].mean(1, keepdim=True) for n in ("right_eye", "left_eye")]
        points = torch.cat([points, *(eye.expand(-1, 5, -1) for eye in eyes)], 1)
        seen = points @ camera.viewmat[:3, :3].T + camera.viewmat[:3, 3]
    pixels = seen[..., :2] / seen[..., 2:] * camera.K[0, 0] + camera.K[:2, 2] + height * torch.tensor([x, y])
    depth = (seen[..., 2:] - seen[..., 2:].mean(1, keepdim=True)) * camera.K[0, 0] / seen[..., 2:]
    found = np.ones(count, bool)
    points = torch.cat([pixels, depth], -1).numpy().astype(np.float32)
    return FaceLandmarks(points, found, np.ones(count, np.int32), width, height)
