"""Effect of emotions on lip sync and on the face.

    python benchmarks/bench_emotion.py [speech.wav ...] [--model DIR] [--units] [--sheet OUT.png] [--json OUT.json]

For each recording (default: the sample of the package), each emotion at full intensity is posed on the avatar's head
and compared with the same speech without emotion. Lips: correlation of the opening between the inner lips
(`face_measures`), the shift in frames with the best correlation, and the share of closed frames that stay closed. Face:
change of the action units that define the emotion, 0..5, measured on the head by `features.action_units`. Intensity:
whether expression and units increase over 0, 0.25, 0.5, 0.75, 1. `--table` first resets the network to the prototypes
of `emotion_prototypes.py`, for weights that were trained with older ones. `--sheet` renders each emotion on three
frames of the first recording: lips closed, half open, wide open.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from emotag_hf import EmoTaGPipeline, sample_path
from emotag_hf.constants import ACTION_UNITS, EXPRESSION_NAMES
from emotag_hf.outputs import FlameMotion
from emotag_hf.preprocessing.features.action_units import action_units_from_track
from emotag_hf.preprocessing.features.face_measures import face_measures
from emotag_hf.preprocessing.tracking.head_track import HeadTrack
from emotag_hf.rendering.cameras import Camera
from emotag_hf.rendering.compositing import to_uint8

# The units of EMFACS' combinations that are measured: surprise and fear leave AU26 to the speech, AU05 and AU07 cancel
# in the opening of the eyelids (angry shows 7, fear 5), AU16 and AU23 are not in a clip.
DEFINING = {
    "angry": ("AU04", "AU07"), "disgust": ("AU09",), "fear": ("AU01", "AU02", "AU04", "AU05", "AU20"),
    "happy": ("AU06", "AU12"), "sad": ("AU01", "AU04", "AU15"), "surprise": ("AU01", "AU02", "AU05"),
}  # fmt: skip
INTENSITIES = (0.0, 0.25, 0.5, 0.75, 1.0)
ONSET = 13  # frames of the fade-in of an emotion
CLOSED = 0.1  # share of the speaker's range of openings
MAX_SHIFT = 5  # frames


def as_track(motion: FlameMotion, head, shape: torch.Tensor | None = None) -> HeadTrack:
    """A motion as a track without errors."""
    ones = torch.ones(len(motion))
    return HeadTrack(
        motion=motion, shape=torch.zeros(head.num_shape) if shape is None else shape, camera=Camera.portrait(512),
        valid=ones.bool(), confidence=ones, error=ones, held_out_error=ones,
        landmarks=torch.zeros(len(motion), 478, 3), head_sha256=head.sha256,
    )  # fmt: skip


def opening(motion: FlameMotion, head, shape=None) -> np.ndarray:
    """Millimetres between the inner lips, `[T]`."""
    return face_measures(as_track(motion, head, shape), head)["lips_apart"].cpu().numpy()


def pressed(motion: FlameMotion) -> np.ndarray:
    """Frames in which speech closes the lips (p, b, m), `[T]` bool, of a motion without emotion."""
    sides = [EXPRESSION_NAMES.index(name) for name in ("mouthPress_L", "mouthPress_R")]
    return (motion.expression[:, sides].mean(1) > 0.3).cpu().numpy()


def compare_lips(plain: np.ndarray, other: np.ndarray, shut: np.ndarray) -> dict[str, float]:
    """Compares two lip openings in mm: correlation, best shift in frames, and the opening where lips were `shut`.

    Returns:
        `r`, `shift`; `kept_shut`, the share of `shut` frames (closed by speech, to a tenth of the range) in which the
        lips are still closed; `rest_mm`, the added opening in all closed frames; `range`, relative to the plain one's
        range.
    """
    shifts = range(-MAX_SHIFT, MAX_SHIFT + 1)
    middle = slice(MAX_SHIFT, len(plain) - MAX_SHIFT)
    at = [float(np.corrcoef(plain[middle], np.roll(other, -shift)[middle])[0, 1]) for shift in shifts]
    low, high = np.quantile(plain, [0.02, 0.98])
    limit = low + CLOSED * (high - low)
    shut, closed = shut & (plain < limit), plain < limit
    return {
        "r": float(np.corrcoef(plain, other)[0, 1]),
        "shift": int(shifts[int(np.argmax(at))]),
        "num_shut": int(shut.sum()),
        "kept_shut": float((other[shut] < limit).mean()) if shut.any() else 1.0,
        "rest_mm": float((other - plain)[closed].mean()) if closed.any() else 0.0,
        "range": float(other.std() / plain.std()),
    }


def unit_changes(plain: FlameMotion, moved: FlameMotion, head, shape=None) -> dict[str, float]:
    """Mean change of every action unit against `plain`, 0..5, after the fade-in.

    Both are joined to one clip of one person, so that units are calibrated to the plain half.
    """
    units = action_units_from_track(as_track(FlameMotion.cat([plain, moved]), head, shape), head)
    change = (units[len(plain) :] - units[: len(plain)])[ONSET:].mean(0)
    return dict(zip(ACTION_UNITS, change.round(2).tolist(), strict=True))


def measure(pipe, recording, intensities=INTENSITIES, **options) -> dict[str, dict]:
    """Every emotion against neutral for one recording, `intensities` rising to 1; see the module's first lines."""
    head, shape = pipe.model.head, pipe.model.shape.cpu()
    speak = lambda e, i=1.0: pipe(recording, emotion=e, intensity=i, output_type="motion", **options).motion  # noqa: E731
    plain = speak("neutral", 0.0)
    lips = opening(plain, head, shape)
    found = {}
    for emotion in DEFINING:
        graded = [speak(emotion, intensity) for intensity in intensities]
        changes = [unit_changes(plain, motion, head, shape) for motion in graded]
        face = [(m.expression - plain.expression)[ONSET:].norm(dim=1).mean().item() for m in graded]
        units = DEFINING[emotion]
        steps = np.array([[change[unit] for unit in units] for change in changes])
        found[emotion] = compare_lips(lips, opening(graded[-1], head, shape), pressed(plain)) | {
            "units": {unit: changes[-1][unit] for unit in units},
            "others": {u: v for u, v in changes[-1].items() if u not in units and abs(v) >= 0.5},
            "monotone": bool((np.diff(face) > 0).all() and (np.diff(steps, axis=0) > -0.02).all()),
            "by_intensity": steps.mean(1).round(2).tolist(),
        }
    return found


def measure_units(pipe, recording, units=ACTION_UNITS, asked=(1.0, 3.0, 5.0), **options) -> dict[str, dict]:
    """Every action unit by itself: its change on the face, and its effect on the lips."""
    head, shape = pipe.model.head, pipe.model.shape.cpu()
    speak = lambda emotion: pipe(recording, emotion=emotion, output_type="motion", **options).motion  # noqa: E731
    plain = speak("neutral")
    lips, found = opening(plain, head, shape), {}
    for unit in units:
        moved = [speak({unit: value}) for value in asked]
        shown = [unit_changes(plain, motion, head, shape)[unit] for motion in moved]
        found[unit] = {"read": shown} | compare_lips(lips, opening(moved[-1], head, shape), pressed(plain))
    return found


def draw_sheet(pipe, recording, path: str, size: int = 320, **options) -> None:
    """One row per emotion, the same three frames in each."""
    speak = lambda emotion: pipe(recording, emotion=emotion, size=size, **options)  # noqa: E731
    plain = speak("neutral")
    lips = opening(plain.motion, pipe.model.head, pipe.model.shape.cpu())
    usable = np.flatnonzero((plain.motion.eyelids[:, 0] < 0.25).numpy() & (np.arange(len(lips)) >= ONSET))
    ranked = usable[np.argsort(lips[usable])]
    frames = [int(ranked[int(q * (len(ranked) - 1))]) for q in (0.1, 0.6, 0.98)]
    rows = []
    for emotion in ("neutral", *DEFINING):
        result = plain if emotion == "neutral" else speak(emotion)
        row = np.concatenate([to_uint8(torch.from_numpy(result.frames[frame])) for frame in frames], 1)
        picture = Image.fromarray(row)
        ImageDraw.Draw(picture).text((4, 2), emotion, fill="white")
        rows.append(np.asarray(picture))
    half = -(-len(rows) // 2)
    rows += [np.zeros_like(rows[0])] * (2 * half - len(rows))
    Image.fromarray(np.concatenate([np.concatenate(rows[:half]), np.concatenate(rows[half:])], 1)).save(path)


def print_table(found: dict[str, dict]) -> None:
    print(f"  {'emotion':9s} {'r':>5s} {'shift':>5s} {'p b m':>8s} {'rest':>6s} {'range':>5s}  defining units; others")
    for emotion, row in found.items():
        units = " ".join(f"{unit} {value:+.1f}" for unit, value in row["units"].items())
        others = " ".join(f"{unit} {value:+.1f}" for unit, value in row["others"].items())
        print(
            f"  {emotion:9s} {row['r']:5.3f} {row['shift']:5d} {row['kept_shut']:5.2f}/{row['num_shut']:<2d}"
            f" {row['rest_mm']:+6.2f} {row['range']:5.2f}  {units}; {others}"
            f"; over intensity {row['by_intensity']} {'rising' if row['monotone'] else 'NOT rising'}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("audio", nargs="*", default=[sample_path()])
    parser.add_argument("--model")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--units", action="store_true", help="also every action unit by itself")
    parser.add_argument("--json", metavar="OUT.json")
    parser.add_argument("--sheet", metavar="OUT.png")
    parser.add_argument("--no-figures", action="store_true", help="the sheet alone")
    args = parser.parse_args()
    pipe = EmoTaGPipeline.from_pretrained(args.model)
    pipe.set_progress_bar_config(disable=True)
    if args.table:
        pipe.model.motion.emotion_decoder.use_prototypes_()
    report = {}
    if args.sheet:
        draw_sheet(pipe, args.audio[0], args.sheet)
    for path in [] if args.no_figures else args.audio:
        print(path)
        report[Path(path).name] = found = measure(pipe, path)
        print_table(found)
    if args.units:
        report["units"] = measure_units(pipe, args.audio[0])
        for unit, row in report["units"].items():
            print(f"  {unit} 1, 3, 5 reads {row['read']}; lips r {row['r']:.3f}, p b m {row['kept_shut']:.2f}")
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
