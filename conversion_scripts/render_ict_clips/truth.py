"""Ground truth of a rendered clip, and the errors of a track against it.

In: a truth file or known motion, and the `HeadTrack` that was found without knowing it. Out: rotation errors in
degrees, correlations, landmark errors in pixels. Needs nothing of this folder: tests and benchmarks load it alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from emotag_hf.constants import EXPRESSION_NAMES
from emotag_hf.preprocessing.tracking.head_track import HeadTrack
from emotag_hf.rendering.cameras import Camera
from emotag_hf.utils.rotations import rotation_matrix

FORMAT = "emotag-truth"


@dataclass
class Truth:
    """T frames of known motion.

    Args:
        rotation: `[T, 3, 3]` and translation `[T, 3]` metres, head to world.
        curves: name -> `[T]` coefficients; names are ICT's.
        gaze: `[T, 2]` radians to the person's left and up, within the head.
        camera: that took the pictures.
        points: `[T, 468, 3]` MediaPipe's points in the head's own frame, metres; None if they are not known.
        fps: frames per second.
    """

    rotation: np.ndarray
    translation: np.ndarray
    curves: dict[str, np.ndarray]
    gaze: np.ndarray
    camera: Camera
    points: np.ndarray | None = None
    fps: float = 25.0

    def save(self, path: str | Path) -> None:
        tensors = {
            "rotation": self.rotation, "translation": self.translation, "gaze": self.gaze,
            "coefficients": np.stack(list(self.curves.values()), 1), "points": self.points,
            "K": self.camera.K.numpy(), "viewmat": self.camera.viewmat.numpy(),
        }  # fmt: skip
        tensors = {k: np.ascontiguousarray(v, np.float32) for k, v in tensors.items() if v is not None}
        metadata = {
            "format": FORMAT,
            "names": json.dumps(list(self.curves)),
            "fps": str(self.fps),
            "width": str(self.camera.width),
            "height": str(self.camera.height),
            "units": "metres, radians, y up; rotation and translation take the head, which looks along +z with its own "
            "left at +x, into the world; viewmat takes the world to an OpenCV camera; gaze is to the left and up",
        }
        save_file(tensors, path, metadata)

    @classmethod
    def load(cls, path: str | Path) -> Truth:
        with safe_open(str(path), framework="np") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
            metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise ValueError(f"path: expected a truth file ({FORMAT}), got {path} ({metadata.get('format')!r}).")
        K, viewmat = torch.from_numpy(tensors["K"]), torch.from_numpy(tensors["viewmat"])
        return cls(
            tensors["rotation"].astype(np.float64),
            tensors["translation"].astype(np.float64),
            dict(zip(json.loads(metadata["names"]), tensors["coefficients"].T, strict=True)),
            tensors["gaze"],
            Camera(int(metadata["width"]), int(metadata["height"]), K, viewmat),
            tensors.get("points"),
            float(metadata["fps"]),
        )

    def in_camera(self) -> np.ndarray:
        """`[T, 3, 3]` rotations from the head into the camera."""
        return self.camera.viewmat[:3, :3].numpy().astype(np.float64) @ self.rotation

    def pixels(self) -> np.ndarray:
        """`[T, 468, 2]` where MediaPipe's points are in the picture."""
        view, K = self.camera.viewmat.numpy().astype(np.float64), self.camera.K.numpy().astype(np.float64)
        world = np.einsum("tij,tnj->tni", self.rotation, self.points) + self.translation[:, None]
        return _project(world @ view[:3, :3].T + view[:3, 3], K)


@dataclass
class Report:
    """How far a track is from the truth, over the frames that the track calls valid.

    Args:
        frames, valid: how many there are, and how many the track calls valid.
        rotation: `[V]` degrees, after one constant rotation was taken out: two models rest in different poses.
        offset: degrees of that constant rotation. raw_rotation: `[V]` degrees without taking it out.
        correlation: Pearson's r by name.
        landmarks: `[V]` pixels of a 512-wide picture, mean distance of the detected landmarks from the true ones;
            centred_landmarks: after each landmark's own mean offset was taken out. Empty without true points.
        landmark_rotation: `[V]` degrees as `rotation`, of the pose that the detected landmarks give on the *true* face:
            what no fit of these landmarks can be blamed for. Empty without true points.
    """

    frames: int
    valid: int
    rotation: np.ndarray
    offset: float
    raw_rotation: np.ndarray
    correlation: dict[str, float]
    landmarks: np.ndarray = field(default_factory=lambda: np.empty(0))
    centred_landmarks: np.ndarray = field(default_factory=lambda: np.empty(0))
    landmark_rotation: np.ndarray = field(default_factory=lambda: np.empty(0))


def compare(track: HeadTrack, truth: Truth, with_landmarks: bool = True) -> Report:
    """Measures a track; `with_landmarks` also its landmarks (where the true ones are known)."""
    if len(track) != len(truth.rotation):
        raise ValueError(f"track: expected {len(truth.rotation)} frames as in the truth, got {len(track)}.")
    ok = track.valid.numpy()
    motion = track.motion
    turned = (rotation_matrix(motion.rotation.double()) @ rotation_matrix(motion.neck_pose.double())).numpy()
    found = track.camera.viewmat[:3, :3].numpy().astype(np.float64) @ turned
    report = Report(len(ok), int(ok.sum()), *rotation_errors(found[ok], truth.in_camera()[ok]), {})
    lids_open = ok & (true_curve(truth, "eyeBlink_L") < 0.3)  # the gaze of a closed eye is invisible
    for name, curve in tracked_curves(track).items():
        known, frames = true_curve(truth, name), lids_open if name.startswith("gaze") else ok
        if known[frames].std() > 1e-6:
            report.correlation[name] = pearson(curve[frames], known[frames])
    if truth.points is not None and with_landmarks:
        detected = track.landmarks[:, :468, :2].numpy().astype(np.float64)[ok]
        apart = (detected - truth.pixels()[ok]) * 512 / truth.camera.width
        report.landmarks = np.linalg.norm(apart, axis=-1).mean(1)
        report.centred_landmarks = np.linalg.norm(apart - apart.mean(0), axis=-1).mean(1)
        posed = np.stack([_pose(truth, i, p) for i, p in zip(np.flatnonzero(ok), detected, strict=True)])
        report.landmark_rotation = rotation_errors(posed, truth.in_camera()[ok])[0]
    return report


def tracked_curves(track: HeadTrack) -> dict[str, np.ndarray]:
    """The track's numbers `[T]` under ICT's names, and the mean of both sides under a name without side."""
    motion = track.motion
    value = lambda name: motion.expression[:, EXPRESSION_NAMES.index(name)].numpy()  # noqa: E731
    eyes = motion.eyes_pose.numpy()
    return {
        "jawOpen": motion.jaw_pose[:, 0].numpy(),
        "mouthSmile": (value("mouthSmile_L") + value("mouthSmile_R")) / 2,
        "mouthSmile_L": value("mouthSmile_L"),
        "mouthSmile_R": value("mouthSmile_R"),
        "eyeBlink_L": motion.eyelids[:, 0].numpy(),
        "eyeBlink_R": motion.eyelids[:, 1].numpy(),
        "browInnerUp": (value("browInnerUp_L") + value("browInnerUp_R")) / 2,
        "gaze_left": (eyes[:, 1] + eyes[:, 4]) / 2,
        "gaze_up": -(eyes[:, 0] + eyes[:, 3]) / 2,
    }


def true_curve(truth: Truth, name: str) -> np.ndarray:
    """The truth `[T]` under a name of `tracked_curves`; zeros where it does not move."""
    if name.startswith("gaze"):
        return truth.gaze[:, ("gaze_left", "gaze_up").index(name)]
    names = (f"{name}_L", f"{name}_R") if name in ("browInnerUp", "mouthSmile") else (name,)
    still = np.zeros(len(truth.rotation))
    return np.mean([truth.curves.get(n, still) for n in names], axis=0)


def rotation_errors(found: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    """Of `[T, 3, 3]` each: degrees per frame without the constant part, that part, degrees per frame with it.

    The constant part stands on the head's side: found = true @ constant, as between two heads at rest.
    """
    relative = true.transpose(0, 2, 1) @ found
    u, _, vt = np.linalg.svd(relative.mean(0))
    constant = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
    return _degrees(relative @ constant.T), float(_degrees(constant)), _degrees(relative)


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's r; 0 where one of them does not move."""
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 1e-9 and b.std() > 1e-9 else 0.0


def _degrees(rotation: np.ndarray) -> np.ndarray:
    cosine = (np.trace(rotation, axis1=-2, axis2=-1) - 1) / 2
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def _project(seen: np.ndarray, K: np.ndarray) -> np.ndarray:
    return seen[..., :2] / seen[..., 2:] * K[[0, 1], [0, 1]] + K[:2, 2]


def _pose(truth: Truth, frame: int, detected: np.ndarray, steps: int = 12) -> np.ndarray:
    """The rotation `[3, 3]` into the camera that lays the true face `[468, 3]` on `detected [468, 2]` pixels.

    Gauss-Newton from the true pose, with the weight of far-off points taken down.
    """
    view, K = truth.camera.viewmat.numpy().astype(np.float64), truth.camera.K.numpy().astype(np.float64)
    points = truth.points[frame].astype(np.float64)
    rotation = view[:3, :3] @ truth.rotation[frame]
    place = view[:3, :3] @ truth.translation[frame] + view[:3, 3]
    for _ in range(steps):
        turned = points @ rotation.T
        seen = turned + place
        gap = detected - _project(seen, K)
        depth = seen[:, 2]
        by_point = np.zeros((len(points), 2, 3))
        by_point[:, 0, 0], by_point[:, 1, 1] = K[0, 0] / depth, K[1, 1] / depth
        by_point[:, :, 2] = -seen[:, :2] * K[[0, 1], [0, 1]] / depth[:, None] ** 2
        by_turn = -by_point @ _cross(turned)
        jacobian = np.concatenate([by_turn, by_point], 2)
        away = np.linalg.norm(gap, axis=1)
        weight = 1 / np.maximum(away, np.median(away))
        normal = np.einsum("n,nij,nik->jk", weight, jacobian, jacobian)
        step = np.linalg.solve(normal, np.einsum("n,nij,ni->j", weight, jacobian, gap))
        rotation = rotation_matrix(torch.from_numpy(step[:3])).numpy() @ rotation
        place = place + step[3:]
    return rotation


def _cross(vectors: np.ndarray) -> np.ndarray:
    out = np.zeros((len(vectors), 3, 3))
    x, y, z = vectors.T
    out[:, 0, 1], out[:, 0, 2], out[:, 1, 0] = -z, y, z
    out[:, 1, 2], out[:, 2, 0], out[:, 2, 1] = -x, -y, x
    return out
