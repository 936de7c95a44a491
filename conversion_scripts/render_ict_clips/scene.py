"""One person in front of the camera: posed vertices in, images out.

The head turns as a whole; the neck follows it less and less towards the shoulders, which stay where they are. Hair is
the scalp, lifted. No landmark of the face is on anything that bends.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from ict_face import EYES, PARTS, SKIN, IctFace, sphere
from motion import PIVOT, Performance
from noise import smoothstep, value_noise
from paint import GRID, hair_cover, paint
from people import Person
from shade import openness, shade, to_picture, vertex_normals

from emotag_hf.rendering.cameras import Camera
from emotag_hf.rendering.mesh import rasterize_mesh

# points of the upper and the lower lip, and of the lids of the person's left and right eye
LIP_PAIRS = ((82, 87), (13, 14), (312, 317))
LID_PAIRS = {
    "L": ((385, 380), (386, 374), (387, 373)),
    "R": ((158, 153), (159, 145), (160, 144)),
}
SAMPLES = 2  # rays per pixel along each side


class Scene:
    """A painted person.

    Args:
        face: ICT-FaceKit.
        person: who.
    """

    def __init__(self, face: IctFace, person: Person):
        self.face, self.person = face, person
        self.identity = person.coefficients(len(face.identity))
        bare = face.neutral + np.tensordot(self.identity, face.identity, 1)
        self.neutral = bare.astype(np.float32)
        self.eyes = {name: sphere(bare[slice(*PARTS[name])])[0] for name in EYES}
        self.hair = self._hair()
        self.rest = {"mouthClose": self._closes("mouthClose", LIP_PAIRS)}
        self.shut = {f"eyeBlink_{side}": self._closes(f"eyeBlink_{side}", LID_PAIRS[side]) for side in "LR"}
        self.follow = self._follow()
        shirt_points, shirt_faces = _shirt()
        self.shirt = shirt_points
        self.faces = np.ascontiguousarray(np.concatenate([face.faces, shirt_faces + len(bare)]), np.int32)
        cloth = np.empty((len(shirt_faces), (GRID + 1) ** 2, 4), np.float32)
        cloth[:] = np.r_[person.shirt, 0.0]
        self.texture = np.concatenate([paint(face, person), cloth])
        whole = np.concatenate([self.neutral + self.hair, self.shirt])
        self.open = openness(whole, self.faces, vertex_normals(whole, self.faces))
        self._keep_mouth_and_eyes_lit()

    def _hair(self) -> np.ndarray:
        """Lifts the scalp along its normals, metres `[N, 3]`."""
        skin = np.zeros(len(self.neutral))
        places = self.face.neutral[slice(*SKIN)].astype(np.float64)
        lumps = 1 + 0.30 * value_noise(places, 0.018, 71) + 0.15 * value_noise(places, 0.007, 72)
        height = smoothstep(-0.03, 0.07, places[:, 1])
        skin[slice(*SKIN)] = hair_cover(self.face, self.person, places) * lumps * (0.35 + 0.65 * height)
        normals = vertex_normals(self.neutral, self.face.faces.astype(np.int32))
        return (self.person.hair_height * skin[:, None] * normals).astype(np.float32)

    def _follow(self) -> np.ndarray:
        """How much each vertex moves with the head, `[N, 1]`: 1 on the head, 0 on the shoulders."""
        p = self.face.neutral
        return smoothstep(-0.205, -0.135, p[:, 1] + 0.45 * p[:, 2])[:, None].astype(np.float32)

    def _keep_mouth_and_eyes_lit(self) -> None:
        """Without this, surfaces behind the closed lips and eyelids of the neutral face would be black."""
        for name, value in (("left_eye", 0.75), ("right_eye", 0.75), ("teeth", 0.8), ("gums", 0.55), ("mouth", 0.5)):
            self.open[slice(*PARTS[name])] = value
        front = self.face.landmarks[13, 2]
        for name in ("teeth", "gums", "mouth"):
            part = slice(*PARTS[name])
            behind = np.clip(front - self.face.neutral[part, 2], 0, None)
            self.open[part] *= np.exp(-behind / 0.011)

    def _closes(self, name: str, pairs: tuple[tuple[int, int], ...]) -> float:
        """The coefficient of an expression that brings all these pairs of MediaPipe's points together."""
        opened = self.face.points(self.neutral)[:, 1]
        moved = self.face.points(self.face.expression[self.face.names.index(name)])[:, 1]
        return max(float((opened[a] - opened[b]) / (moved[b] - moved[a])) for a, b in pairs)

    def fitted(self, performance: Performance) -> Performance:
        """The same performance with coefficients that close this person's lips at rest and eyelids in a blink."""
        weights = {n: self.shut.get(n, 1.0) * w for n, w in performance.weights.items()}
        rest = np.full(len(performance), max(0.0, self.rest["mouthClose"]) + 0.01, np.float32)
        return replace(performance, weights=weights | {"mouthClose": rest})

    def expressed(self, coefficients: np.ndarray, gaze: np.ndarray) -> np.ndarray:
        """The face `[N, 3]` in its own frame under one frame's `coefficients [57]` and `gaze [2]`."""
        used = np.flatnonzero(coefficients)
        vertices = self.neutral + np.tensordot(coefficients[used], self.face.expression[used], 1)
        yaw, pitch = gaze
        turn = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
        turn = turn @ np.array([[1, 0, 0], [0, np.cos(pitch), np.sin(pitch)], [0, -np.sin(pitch), np.cos(pitch)]])
        for name, centre in self.eyes.items():
            part = slice(*PARTS[name])
            vertices[part] = (self.neutral[part] - centre) @ turn.T + centre
        return vertices.astype(np.float32)

    def posed(self, vertices: np.ndarray, rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
        """World vertices of head and shirt for `vertices [N, 3]` of the face in its own frame."""
        head = (vertices + self.hair) @ rotation.T + translation
        still = vertices + self.hair + 0.3 * (rotation @ PIVOT + translation - PIVOT)
        return np.concatenate([still + self.follow * (head - still), self.shirt])

    def frames(self, performance: Performance, camera: Camera):
        """Pictures `[H, W, 3]` uint8, frame after frame."""
        view = camera.viewmat.numpy().astype(np.float64)
        K = camera.K.numpy().astype(np.float64) * [[SAMPLES], [SAMPLES], [1]]
        size = camera.width * SAMPLES, camera.height * SAMPLES
        background = _wall(*size, self.person.wall)
        coefficients = performance.coefficients(self.face.names)
        for i in range(len(performance)):
            local = self.expressed(coefficients[i], performance.gaze[i])
            world = self.posed(local, performance.rotation[i], performance.translation[i])
            seen = world @ view[:3, :3].T + view[:3, 3]
            buffers = rasterize_mesh(seen, self.faces, K, *size)
            normals = vertex_normals(seen, self.faces)
            yield to_picture(shade(buffers, self.faces, self.texture, normals, self.open, background), SAMPLES)

    def landmarks(self, performance: Performance) -> np.ndarray:
        """MediaPipe's points `[T, 468, 3]` in the head's own frame, on the bare face."""
        coefficients = performance.coefficients(self.face.names)
        return np.stack(
            [self.face.points(self.expressed(c, g)) for c, g in zip(coefficients, performance.gaze, strict=True)]
        )


def _wall(width: int, height: int, color: np.ndarray) -> np.ndarray:
    """A plain wall, brighter behind the person."""
    y, x = np.mgrid[0:height, 0:width]
    away = np.hypot((x - 0.5 * width) / width, (y - 0.4 * height) / height)
    return (color * np.clip(1.05 - 0.9 * away, 0, None)[..., None]).astype(np.float32)


def _shirt(rings: int = 24, around: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """A round-necked shirt over shoulders: points `[n, 3]` and triangles."""
    t = np.linspace(0, 1, rings)[:, None]
    angle = np.linspace(0, 2 * np.pi, around, endpoint=False)[None]
    wide = 0.078 + 0.150 * smoothstep(0.0, 0.75, t)
    deep = 0.072 + 0.040 * smoothstep(0.0, 0.8, t)
    front = np.cos(angle) > 0
    collar = -0.168 - 0.030 * np.where(front, np.cos(angle), 0) ** 2
    drop = 0.055 * t**1.6 + 0.13 * np.clip(t - 0.72, 0, None) ** 0.8
    x = wide * np.sin(angle)
    z = -0.055 + deep * np.cos(angle) + 0.012 * t
    y = collar - drop
    points = np.stack([x, y + 0 * x, z], -1).reshape(-1, 3).astype(np.float32)
    r, c = np.meshgrid(np.arange(rings - 1), np.arange(around), indexing="ij")
    a, b = (r * around + c).ravel(), (r * around + (c + 1) % around).ravel()
    faces = np.concatenate([np.stack([a, a + around, b], 1), np.stack([b, a + around, b + around], 1)])
    return points, faces
