"""Tracking quality of processed clips: a table for a folder of them, and a contact sheet for each.

    python benchmarks/report_tracking.py CLIPS_DIR -o OUT_DIR

The error is that of held-out landmarks, in pixels of a 512-wide picture; column `own` is the error after subtracting
each landmark's median offset. A second table shows the amplitude of the head's movements relative to the landmarks:
slope and (r) of distances in the picture that change enough; 1 is correct. A sheet has a row for each extreme frame
(lips closest and widest apart, mouth narrowest and widest, brows lowest and highest, lids most shut, largest turn,
largest error): the picture, the fitted head blended over it, the fitted head over it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from emotag_hf import ParametricHead, ProcessedClip
from emotag_hf.preprocessing.tracking.amplitude import AMPLITUDES, MOVES, amplitudes, mesh_landmarks
from emotag_hf.preprocessing.tracking.head_track import camera_vertices
from emotag_hf.preprocessing.tracking.landmark_groups import HELD_OUT
from emotag_hf.rendering.mesh import rasterize_mesh
from emotag_hf.utils.rotations import rotation_matrix

_PAINT = {"lips": (0.9, 0.4, 0.4), "mouth_interior": (0.4, 0.1, 0.1), "iris": (0.2, 0.3, 0.8), "pupil": (0, 0, 0)}
_LIGHT = (-0.3, -0.4, -0.85)  # towards the light, in camera space
_FRONTAL = 20.0  # degrees: clips with a smaller median turn count as frontal


def head_yaw(track) -> torch.Tensor:
    """Angle between the head's direction and the camera, `[T]` degrees."""
    whole = rotation_matrix(track.motion.rotation) @ rotation_matrix(track.motion.neck_pose)
    return whole[:, 2, 2].clamp(-1, 1).acos().rad2deg()


def extreme_frames(track, head: ParametricHead) -> dict[str, int]:
    """Extreme frames of a clip, by what they show."""
    points, valid = track.landmarks, track.valid
    width = (points[:, 33] - points[:, 263]).norm(dim=-1)
    gap = (points[:, 13] - points[:, 14]).norm(dim=-1) / width
    pick = lambda values: int(torch.where(valid, values, torch.full_like(values, -9.0)).nan_to_num(-9.0).argmax())  # noqa: E731
    apart = lambda a, b: (points[:, a] - points[:, b])[:, :2].norm(dim=-1) / width  # noqa: E731
    brows = apart(282, 263) + apart(52, 33)
    return {
        "lips closest": pick(-gap),
        "lips widest": pick(gap),
        "mouth narrowest": pick(-apart(61, 291)),
        "mouth widest": pick(apart(61, 291)),
        "brows lowest": pick(-brows),
        "brows highest": pick(brows),
        "lids most shut": pick(track.motion.eyelids.mean(1)),
        "largest turn": pick(head_yaw(track)),
        "worst error": pick(track.held_out_error),
    }


def overlay(frame: np.ndarray, track, index: int, head: ParametricHead) -> np.ndarray:
    """The frame, the head blended over it, the head over it: `[H, 3W, 3]`."""
    vertices = camera_vertices(track, [index], head)[0]
    faces = head.faces.numpy()
    buffers = rasterize_mesh(vertices, faces, track.camera.K, track.camera.width, track.camera.height)
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    normals = np.cross(b - a, c - a)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-12
    shade = 0.35 + 0.65 * np.clip(normals @ np.array(_LIGHT), 0, 1)
    colors = np.full((len(faces), 3), 0.8)
    for name, color in _PAINT.items():
        colors[head.region_faces(name).numpy()] = color
    drawn = frame.astype(np.float64)
    covered = buffers.face_index >= 0
    drawn[covered] = 255 * (colors * shade[:, None])[buffers.face_index[covered]]
    return np.concatenate([frame, frame * 0.5 + drawn * 0.5, drawn], axis=1).astype(np.uint8)


def report(path: Path, head: ParametricHead, out: Path) -> dict:
    """One clip's row of the table; writes its contact sheet."""
    clip = ProcessedClip.open(path)
    track = clip.track
    frames = extreme_frames(track, head)
    rows = [overlay(clip.frame(index), track, index, head) for index in frames.values()]
    sheet = Image.fromarray(np.concatenate(rows))
    sheet.resize((sheet.width // 2, sheet.height // 2), Image.Resampling.BOX).save(out / f"{path.name}.png")
    held = track.held_out_error[track.valid]
    apart = torch.from_numpy(mesh_landmarks(track, head))[track.valid] - track.landmarks[track.valid][:, :468, :2]
    apart = apart[:, list(HELD_OUT)] * 512 / track.camera.width
    yaw = head_yaw(track)[track.valid]
    return {
        "clip": path.name,
        "frames": len(track),
        "without_face": int(track.error.isnan().sum()),
        "valid": int(track.valid.sum()),
        "held_out_median": round(held.median().item(), 2),
        "held_out_p95": round(held.quantile(0.95).item(), 2),
        "held_out_own": round((apart - apart.median(0).values).norm(dim=-1).median().item(), 2),
        "amplitudes": {name: [vars(a) for a in sides] for name, sides in amplitudes(track, head).items()},
        "turn_median": round(yaw.median().item(), 1),
        "frontal": yaw.median().item() < _FRONTAL,
        "shown": frames,
    }


def _slopes(sides) -> str:
    """`slope(r)` of each side whose distance changes enough."""
    return " ".join(f"{s['slope']:.2f}({s['correlation']:.2f})" for s in sides if s["spread"] >= MOVES) or "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", type=Path, help="folder of processed clips")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    head = ParametricHead.from_asset()
    rows = [report(p.parent, head, args.output) for p in sorted(args.clips.glob("*/clip.json"))]
    print(f"{'clip':44}{'frames':>7}{'no face':>8}{'valid':>7}{'median':>8}{'p95':>7}{'own':>7}{'turn':>7}")
    for row in rows:
        print(
            f"{row['clip'][:43]:44}{row['frames']:>7}{row['without_face']:>8}{row['valid']:>7}"
            f"{row['held_out_median']:>8}{row['held_out_p95']:>7}{row['held_out_own']:>7}{row['turn_median']:>7}"
        )
    print(f"\n{'clip':28}" + "".join(f"{name.replace('mouth ', ''):>18}" for name in AMPLITUDES))
    for row in rows:
        print(
            f"{row['clip'][:27]:28}" + "".join(f"{_slopes(row['amplitudes'].get(name, ())):>18}" for name in AMPLITUDES)
        )
    worst = {kind: max((r["held_out_median"] for r in rows if r["frontal"] == kind), default=None) for kind in (1, 0)}
    print(f"largest median, px at 512: frontal {worst[1]}, others {worst[0]}")
    (args.output / "tracking.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
