"""Measures the systematic offsets of MediaPipe's landmarks on rendered people.

    python conversion_scripts/render_ict_clips/calibrate.py --ict ict_facekit_f16.npz -o landmark_bias.safetensors

Face Mesh has systematic errors: its points are a little off the corresponding points of the open head, and slide along
the face as it turns. This renders seeded people (none of them in `people.py`), finds the landmarks as the tracker does,
and fits, for each point, where it is seen minus where it is:

    offset [metres] = sum over k of bias[k] * terms[k],   terms = 1, x, y, x^2, x y, y^2,

with (x, y, z) the unit vector towards the camera in the head's own frame, and the offset along the head's own right and
down in the picture. Expression is fitted along and left out, so that it is not taken for a fault of the resting face.
A mirrored copy of everything makes the result symmetric. About ten seconds of one core per person.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from ict_face import IctFace
from motion import FPS, perform
from people import PEOPLE
from safetensors.numpy import save_file
from scene import Scene
from tqdm import tqdm

from emotag_hf.preprocessing.tracking.landmarks import track_landmarks
from emotag_hf.rendering.cameras import Camera

EXPRESSIONS = ("jawOpen", "mouthSmile", "mouthPucker", "mouthFunnel", "browInnerUp", "browDown", "eyeBlink")
SIZE = 512
RIDGE = 5.0


def stranger(index: int):
    """A person with colours between those of `PEOPLE`, another face, and a camera a little elsewhere."""
    rng = np.random.default_rng(5000 + index)
    skin, hair = (PEOPLE[i] for i in rng.integers(0, len(PEOPLE), 2))
    person = replace(
        skin,
        seed=1000 + index,
        spread=0.8,
        skin=skin.skin * rng.uniform(0.85, 1.1),
        hair=hair.hair,
        iris=hair.iris,
        brow=rng.uniform(0.8, 1.3),
        stubble=rng.uniform(0, 0.4),
        hair_height=rng.uniform(0.004, 0.026),
        fringe=rng.uniform(-0.005, 0.012),
    )
    focal = rng.uniform(2.5, 5.0)
    target = (rng.uniform(-0.02, 0.02), -0.035 + rng.uniform(-0.02, 0.02), 0.0)
    distance = 1.4 * focal / 4 * rng.uniform(0.9, 1.25)
    return person, Camera.portrait(SIZE, target=target, distance=distance, focal=focal * SIZE)


def view_terms(rotation: np.ndarray) -> np.ndarray:
    """`[T, 6]` for rotations from the head into an OpenCV camera `[T, 3, 3]`."""
    x, y = -rotation[:, 2, 0], -rotation[:, 2, 1]
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], 1)


def offsets(points: np.ndarray, rotation: np.ndarray, place: np.ndarray, found: np.ndarray, K: np.ndarray):
    """Seen minus true `[T, 468, 2]` in metres along the head's own right and down in the picture."""
    seen = np.einsum("tij,tnj->tni", rotation, points) + place[:, None]
    apart = found - (seen[..., :2] / seen[..., 2:] * K[[0, 1], [0, 1]] + K[:2, 2])
    down = -rotation[:, :2, 1] / np.linalg.norm(rotation[:, :2, 1], axis=1, keepdims=True)
    axes = np.stack([np.stack([down[:, 1], -down[:, 0]], 1), down], 1)  # [T, right and down, x and y]
    return np.einsum("tij,tnj->tni", axes, apart) * (place[:, 2] / K[0, 0])[:, None, None]


class Regression:
    """Normal equations of offsets `[T, 468, 2]` on terms `[T, k]`, over any number of clips."""

    def __init__(self) -> None:
        self.left, self.right = 0.0, 0.0

    def add(self, terms: np.ndarray, values: np.ndarray) -> None:
        self.left = self.left + terms.T @ terms
        self.right = self.right + np.einsum("tk,tni->kni", terms, values)

    def solve(self) -> np.ndarray:
        left = self.left + RIDGE * np.eye(len(self.left))
        return np.linalg.solve(left, self.right.reshape(len(left), -1)).reshape(self.right.shape)


def measure(face: IctFace, index: int, frames: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Terms and offsets of one person, as they are and mirrored."""
    person, camera = stranger(index)
    scene = Scene(face, person)
    performance = scene.fitted(perform(frames, 3000 + index))
    landmarks = track_landmarks(scene.frames(performance, camera), SIZE, SIZE, fps=float(FPS))
    ok = landmarks.found
    view, K = camera.viewmat.numpy().astype(np.float64), camera.K.numpy().astype(np.float64)
    rotation = (view[:3, :3] @ performance.rotation)[ok]
    place = (performance.translation @ view[:3, :3].T + view[:3, 3])[ok]
    points, found = scene.landmarks(performance)[ok].astype(np.float64), landmarks.points[ok, :468, :2]
    still = np.zeros(frames)
    sides = [[performance.weights.get(n + s, still)[ok] for n in EXPRESSIONS] for s in ("_L", "_R")]
    both = [performance.weights.get(n, still)[ok] for n in EXPRESSIONS]
    left, right = (np.stack([a + b for a, b in zip(side, both, strict=True)], 1) for side in sides)
    partner, flip = mirror_partner(face.landmarks), np.diag([-1.0, 1.0, 1.0])
    mirrored = found[:, partner].copy()
    mirrored[..., 0] = 2 * K[0, 2] - mirrored[..., 0]
    turned = flip @ rotation @ flip
    return [
        (np.c_[view_terms(rotation), left, right], offsets(points, rotation, place, found, K)),
        (
            np.c_[view_terms(turned), right, left],
            offsets(points[:, partner] @ flip, turned, place @ flip, mirrored, K),
        ),
    ]


def mirror_partner(landmarks: np.ndarray) -> np.ndarray:
    """For each of the points `[468, 3]` the one on the other side of the face."""
    return ((landmarks[:, None] - landmarks[None] * [-1, 1, 1]) ** 2).sum(-1).argmin(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ict", type=Path, required=True, help="ICT-FaceKit light as npz")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the safetensors file to write")
    parser.add_argument("--people", type=int, default=24)
    parser.add_argument("--frames", type=int, default=60, help="frames per person")
    args = parser.parse_args()
    face = IctFace.load(args.ict)
    regression = Regression()
    for index in tqdm(range(args.people), "calibrate", unit="person"):
        for terms, values in measure(face, index, args.frames):
            regression.add(terms, values)
    bias = regression.solve()[:6].astype(np.float32)
    metadata = {
        "format": "emotag-landmark-bias",
        "provenance": f"MediaPipe 0.10.21 Face Mesh on {args.people} rendered, seeded ICT-FaceKit (MIT) people",
        "units": "metres at the face, right and down along the head in the picture, per term 1, x, y, x^2, x y, y^2 of "
        "the unit vector towards the camera in the head's frame",
    }
    save_file({"landmark_bias": bias}, args.output, metadata)
    print(f"{args.output}: mean offset of the frontal face {np.linalg.norm(bias[0], axis=-1).mean() * 1000:.2f} mm")


if __name__ == "__main__":
    main()
