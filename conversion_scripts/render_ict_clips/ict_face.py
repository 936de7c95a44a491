"""ICT-FaceKit as a head that can be posed: in comes its npz, out go vertices in the project's convention.

Metres, y up, looking along +z, the person's left at +x. The origin is where `build_open_head` puts that of the open
head in ICT's neutral face, so MediaPipe's points, whose positions on the open head are known, can be found on this
mesh.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from emotag_hf import ParametricHead

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from convert.ict_source import CENTIMETRE, PARTS, SKIN, read_ict_arrays  # noqa: E402

__all__ = ["EYES", "PARTS", "SKIN", "IctFace", "sphere"]
ORIGIN = np.array([0.0, 3.6306, 8.2128])  # centimetres in ICT's neutral face
EYES = ("left_eye", "right_eye")


@dataclass
class IctFace:
    """ICT-FaceKit with the parts that are drawn.

    Args:
        neutral: `[N, 3]`. identity: `[100, N, 3]` per standard deviation. expression: `[57, N, 3]` at coefficient 1.
        names: of the 57 expressions.
        faces: `[F, 3]` triangles of `PARTS`. part: `[F]` index into `PARTS`.
        landmark_vertices, landmark_bary: `[468, 3]` each, MediaPipe's points on the skin.
        landmarks: `[468, 3]` their places on the neutral face.
    """

    neutral: np.ndarray
    identity: np.ndarray
    expression: np.ndarray
    names: tuple[str, ...]
    faces: np.ndarray
    part: np.ndarray
    landmark_vertices: np.ndarray
    landmark_bary: np.ndarray

    @property
    def landmarks(self) -> np.ndarray:
        return self.points(self.neutral)

    def points(self, vertices: np.ndarray) -> np.ndarray:
        """MediaPipe's points `[..., 468, 3]` on vertices `[..., N, 3]`."""
        return (vertices[..., self.landmark_vertices, :] * self.landmark_bary[..., None]).sum(-2)

    def in_part(self, *names: str) -> np.ndarray:
        """Which triangles `[F]` belong to the named parts."""
        order = list(PARTS)
        return np.isin(self.part, [order.index(n) for n in names])

    @classmethod
    def load(cls, path: str | Path) -> IctFace:
        """Reads the npz or the folder of OBJ files; raises as `read_ict_arrays`."""
        data = read_ict_arrays(path)
        neutral = ((data.neutral - ORIGIN) * CENTIMETRE).astype(np.float32)
        triangles = data.triangles
        part = np.full(len(triangles), -1)
        for i, (start, end) in enumerate(PARTS.values()):
            # the last ring of a part of the skin belongs to the next part's triangles
            part[(triangles.max(1) >= start) & (triangles.max(1) < end)] = i
        drawn = part >= 0
        skin = triangles[(triangles < PARTS["head"][0]).all(1)]
        vertices, bary = _embed_landmarks(neutral, skin)
        return cls(
            neutral,
            data.identity.astype(np.float32) * CENTIMETRE,
            np.stack(list(data.expression.values())).astype(np.float32) * CENTIMETRE,
            tuple(data.expression),
            np.ascontiguousarray(triangles[drawn]),
            part[drawn],
            vertices,
            bary,
        )


def _embed_landmarks(neutral: np.ndarray, skin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The point of the skin nearest to each landmark of the open head: vertices `[468, 3]` and weights `[468, 3]`."""
    head = ParametricHead.from_asset(None)
    goal = head.landmarks(head.v_template[None])[0].numpy().astype(np.float64)
    centres = neutral[skin].mean(1)
    near = torch.cdist(torch.from_numpy(goal), torch.from_numpy(centres).double()).topk(24, largest=False).indices
    vertices, bary = np.zeros((len(goal), 3), np.int64), np.zeros((len(goal), 3), np.float32)
    for i, candidates in enumerate(near.numpy()):
        corners = neutral[skin[candidates]].astype(np.float64)
        weights = np.stack([_closest(c, goal[i]) for c in corners])
        away = np.linalg.norm(np.einsum("nk,nkd->nd", weights, corners) - goal[i], axis=1)
        vertices[i], bary[i] = skin[candidates[away.argmin()]], weights[away.argmin()]
    return vertices, bary


def _closest(corners: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Weights of the corners `[3, 3]` for the triangle's point that is nearest to `point`; outside it, clipped."""
    edges = np.stack([corners[1] - corners[0], corners[2] - corners[0]], 1)
    v, w = np.linalg.lstsq(edges, point - corners[0], rcond=None)[0]
    weights = np.clip([1 - v - w, v, w], 0, None)
    return weights / weights.sum()


def sphere(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Centre `[3]` and radius of the sphere through points, least squares."""
    points = points.astype(np.float64)
    terms = np.c_[2 * points, np.ones(len(points))]
    solution = np.linalg.lstsq(terms, (points**2).sum(1), rcond=None)[0]
    return solution[:3], float(np.sqrt(solution[3] + solution[:3] @ solution[:3]))
