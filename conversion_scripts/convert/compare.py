"""Compares two heads driven by the same recording: correlation of the lip opening, and a contact sheet.

In: a driven head asset and a recording. Out: Pearson's r of the lips' opening over time, on the meshes (between
landmarks) and on their pictures (rows of the middle of the mouth in which its inside is seen), and a PNG.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from emotag_hf import EmoTaGPipeline, FlameMotion, ParametricHead
from emotag_hf.models.retarget import lip_opening
from emotag_hf.rendering.cameras import Camera
from emotag_hf.rendering.mesh import rasterize_mesh

_INSIDE = ("mouth_interior", "teeth_upper", "teeth_lower", "gums", "tongue")
_COLOURS = {
    "lips": (0.72, 0.42, 0.40),
    "mouth_interior": (0.30, 0.10, 0.10),
    "gums": (0.62, 0.32, 0.32),
    "tongue": (0.68, 0.34, 0.34),
    "teeth_upper": (0.95, 0.93, 0.88),
    "teeth_lower": (0.95, 0.93, 0.88),
    "sclera": (0.95, 0.95, 0.95),
    "iris": (0.25, 0.35, 0.45),
    "pupil": (0.05, 0.05, 0.05),
}
_COLUMNS = 0.004  # metres to either side of the middle that count as the middle of the mouth
_LIGHT = np.array([0.25, 0.35, 0.9])


@dataclass
class Comparison:
    """`meshes`, `pictures`: Pearson's r of lip opening; behind them `openings [2, T]` metres, `rows [2, T]` pixels."""

    meshes: float
    pictures: float
    openings: np.ndarray
    rows: np.ndarray


class View:
    """A head before a camera that looks at its face, drawn as a shaded mesh without its own head motion."""

    def __init__(self, head: ParametricHead, size: int):
        self.head, self.size, self.faces = head, size, head.faces.numpy()
        joints = head.joint_regressor @ head.v_template
        across = float((joints[3] - joints[4]).norm())  # eyes: the same size on the sheet, whatever the head's scale
        middle = (joints[3] + joints[4]) / 2
        target = (middle + torch.tensor([0.0, -0.65 * across, 0.6 * across])).tolist()
        camera = Camera.portrait((size, size), target=target, distance=10 * across, focal=3.0 * size)
        self.view, self.K = camera.viewmat.double().numpy(), camera.K.double().numpy()
        self.inside = head.face_mask(*_INSIDE).numpy()
        colours = np.full((len(self.faces), 3), (0.78, 0.62, 0.52))
        for name, colour in _COLOURS.items():
            colours[head.face_mask(name).numpy()] = colour
        self.colours = colours
        middle_lip = float(head.landmarks(head.v_template[None])[0, 13, 0])
        corner = self._to_camera(np.array([[middle_lip + s * _COLUMNS, 0.0, float(middle[2])] for s in (-1, 1)]))
        self.columns = np.sort((corner @ self.K.T / corner[:, 2:])[:, 0]).round().astype(int)

    def _to_camera(self, vertices: np.ndarray) -> np.ndarray:
        return vertices @ self.view[:3, :3].T + self.view[:3, 3]

    def draw(self, vertices: torch.Tensor) -> tuple[np.ndarray, float]:
        """uint8 picture `[H, W, 3]` of vertices `[V, 3]`, and how many rows of the mouth's middle show its inside."""
        points = self._to_camera(vertices.double().numpy())
        seen = rasterize_mesh(points, self.faces, self.K, self.size, self.size).face_index
        corners = vertices.double().numpy()[self.faces]
        normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
        light = 0.3 + 0.7 * np.clip(normal @ (_LIGHT / np.linalg.norm(_LIGHT)), 0, 1)
        colour = (255 * self.colours * light[:, None]).clip(0, 255)
        picture = np.where(seen[..., None] >= 0, colour[np.maximum(seen, 0)], 38).astype(np.uint8)
        inside = (seen >= 0) & self.inside[np.maximum(seen, 0)]
        first, last = self.columns
        return picture, float(inside[:, first : last + 1].sum() / (last - first + 1))


def face_only(motion: FlameMotion) -> dict[str, torch.Tensor]:
    """Expression, jaw, eyelids and gaze of a motion, for `ParametricHead`."""
    return {name: getattr(motion, name) for name in ("expression", "jaw_pose", "eyelids", "eyes_pose")}


def speak(audio: str | Path, *, model: str | None = None, seed: int = 0, emotion: str | None = None) -> FlameMotion:
    """What the embedded motion network makes of a recording."""
    return EmoTaGPipeline.from_pretrained(model)(str(audio), emotion=emotion, seed=seed, output_type="motion").motion


def compare(
    first: ParametricHead, second: ParametricHead, motion: FlameMotion, *, sheet: str | Path | None = None,
    size: int = 256, tiles: int = 8,
) -> Comparison:  # fmt: skip
    """Drives two heads by the same motion; both must answer to its coefficients."""
    heads = (first, second)
    vertices = [_posed(head, motion) for head in heads]
    openings = np.stack([lip_opening(head, v).numpy() for head, v in zip(heads, vertices, strict=True)])
    rows, pictures = np.zeros_like(openings), {}
    order = np.argsort(openings[0])
    wanted = {int(order[round(q * (len(order) - 1))]) for q in np.linspace(0, 1, tiles)}
    for i, head in enumerate(heads):
        view = View(head, size)
        for t in range(len(motion)):
            picture, rows[i, t] = view.draw(vertices[i][t])
            if t in wanted:
                pictures[t, i] = picture
    if sheet is not None:
        columns = [np.concatenate([pictures[t, 0], pictures[t, 1]]) for t in sorted(wanted)]
        Image.fromarray(np.concatenate(columns, 1)).save(sheet)
    return Comparison(_pearson(openings), _pearson(rows), openings, rows)


def _posed(head: ParametricHead, motion: FlameMotion, chunk: int = 16) -> torch.Tensor:
    inputs = face_only(motion)
    with torch.no_grad():
        parts = [
            head(**{k: v[i : i + chunk] for k, v in inputs.items()}).vertices for i in range(0, len(motion), chunk)
        ]
    return torch.cat(parts)


def _pearson(curves: np.ndarray) -> float:
    return float(np.corrcoef(curves)[0, 1]) if (curves.std(1) > 0).all() else float("nan")
