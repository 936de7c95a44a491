"""Accuracy of the default teachers on real clips, without downloaded networks.

    python benchmarks/report_features.py DATA_DIR -o DIR --face-landmarker face_landmarker.task [--only NAME ...]

DATA_DIR holds `clips/` and `motion/` with mp4 files, whose names contain the label of acted clips
(`mead_..._angry_...`), and `splits.json`, which names the person in each. Measured:
- action units from the fitted head alone against MediaPipe's blendshapes, which use the image: Pearson's r per clip
  where the blendshape moves, its median over clips, and over all frames (raw, and relative to each clip's mean);
- emotions by the rule against the labels: confusion matrix and mean probabilities, once with and once without
  blendshapes; and the emotion score of the clips without a label;
- identity: cosine of clips of one person and of different persons, and the area under the curve between them.
Landmarks are cached in DIR; `report.json` holds all numbers.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file
from tqdm import tqdm

from emotag_hf.constants import ACTION_UNITS, EMOTIONS
from emotag_hf.models.modeling_head import ParametricHead
from emotag_hf.preprocessing.data.framing import choose_crop
from emotag_hf.preprocessing.features.action_units import (
    ACTION_UNIT_TABLE,
    action_units_from_track,
    refine_with_blendshapes,
)
from emotag_hf.preprocessing.features.emotion import emotion_from_action_units, emotion_score
from emotag_hf.preprocessing.features.identity import identity_embedding, neutral_frames
from emotag_hf.preprocessing.tracking.fit import fit_head
from emotag_hf.preprocessing.tracking.head_track import FaceLandmarks, HeadTrack
from emotag_hf.preprocessing.tracking.landmarks import track_landmarks
from emotag_hf.video.cropping import FrameCrop
from emotag_hf.video.video_reader import read_video

FPS = 25.0
SIZE = 512
ASKED = {"AU01": "brow raise", "AU02": "outer brow", "AU45": "blink", "AU12": "smile", "AU26": "jaw"}
MOVES = 0.05  # standard deviation of a blendshape over a clip, below which there is nothing to correlate with
LABELS = {"angry": "angry", "disgust": "disgust", "fear": "fear", "happy": "happy", "sad": "sad", "surpris": "surprise"}


@dataclass
class Tracked:
    """One clip: its fit, its blendshapes and where its file is."""

    name: str
    path: Path
    track: HeadTrack
    crop: FrameCrop
    blendshapes: np.ndarray
    names: tuple[str, ...]

    @property
    def label(self) -> str | None:
        return next((e for part, e in LABELS.items() if "mead" in self.name and part in self.name), None)

    @property
    def usable(self) -> np.ndarray:
        return self.track.valid.numpy() & np.isfinite(self.blendshapes).all(1)


class SomeFrames:
    """The cropped pictures at a few indices of a video, as `identity_embedding` reads them."""

    def __init__(self, clip: Tracked, indices: set[int]):
        self.count, self.pictures = len(clip.track), {}
        for index, frame in enumerate(read_video(clip.path).frames(FPS)):
            if index in indices:
                self.pictures[index] = clip.crop.apply(frame)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> np.ndarray:
        return self.pictures[index]


def tracked(path: Path, root: Path, folder: Path, landmarker: str, head: ParametricHead) -> Tracked:
    """Fits a clip; its landmarks come from the folder if they are there."""
    name = "_".join(path.relative_to(root).with_suffix("").parts)
    found = landmarks_of(path, folder / f"{name}.safetensors", landmarker)
    crop, _ = choose_crop(found, SIZE)
    inside = FaceLandmarks(crop.to_crop(found.points), found.found, found.num_faces, SIZE, SIZE, FPS)
    return Tracked(name, path, fit_head(inside, head=head), crop, found.blendshapes, found.blendshape_names)


def landmarks_of(path: Path, kept: Path, landmarker: str) -> FaceLandmarks:
    """Landmarks and blendshapes in source pixels, found once and then kept."""
    if not kept.exists():
        video = read_video(path)
        found = track_landmarks(video.frames(FPS), video.width, video.height, fps=FPS, face_landmarker=landmarker)
        arrays = {name: getattr(found, name) for name in ("points", "found", "num_faces", "blendshapes")}
        facts = {"size": [found.width, found.height], "names": found.blendshape_names}
        save_file(arrays, kept, {name: json.dumps(value) for name, value in facts.items()})
    with safe_open(str(kept), framework="np") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        facts = {name: json.loads(value) for name, value in file.metadata().items()}
    names = tuple(facts["names"])
    return FaceLandmarks(**arrays, width=facts["size"][0], height=facts["size"][1], fps=FPS, blendshape_names=names)


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 1e-6 and b.std() > 1e-6 else 0.0


def correlations(clips: list[Tracked], units: dict[str, np.ndarray]) -> dict[str, dict]:
    """Per action unit that MediaPipe sees too: r of each clip that moves, their median, r over all frames."""
    report = {}
    for column, unit in enumerate(ACTION_UNITS):
        wanted = ACTION_UNIT_TABLE[unit].blendshapes
        if not wanted:
            continue
        per_clip, ours, theirs = {}, [], []
        for clip in clips:
            seen = clip.blendshapes[:, [clip.names.index(name) for name in wanted]].mean(1)[clip.usable]
            own = units[clip.name][clip.usable, column]
            ours.append(own)
            theirs.append(seen)
            if seen.std() >= MOVES:
                per_clip[clip.name] = pearson(own, seen)
        centred = [np.concatenate([x - x.mean() for x in side]) for side in (ours, theirs)]
        report[unit] = {
            "clips": per_clip,
            "median": float(np.median(list(per_clip.values()))) if per_clip else None,
            "within_clips": pearson(*centred),
            "all_frames": pearson(np.concatenate(ours), np.concatenate(theirs)),
        }
    return report


def emotions(clips: list[Tracked], units: dict[str, np.ndarray]) -> dict:
    """Mean probabilities of each clip, the confusion matrix of the labelled ones, the score of the others."""
    means, matrix = {}, {label: dict.fromkeys(EMOTIONS, 0) for label in dict.fromkeys(LABELS.values())}
    scores: dict[str, list[float]] = {"labelled": [], "others": []}
    for clip in clips:
        probabilities = emotion_from_action_units(units[clip.name], FPS)
        mean = probabilities.mean(0)
        means[clip.name] = {"label": clip.label} | dict(zip(EMOTIONS, mean.round(3).tolist(), strict=True))
        scores["labelled" if clip.label else "others"].append(float(emotion_score(probabilities).mean()))
        if clip.label:
            matrix[clip.label][EMOTIONS[int(mean.argmax())]] += 1
    matrix = {label: row for label, row in matrix.items() if any(row.values())}
    right = sum(row[label] for label, row in matrix.items())
    total = sum(sum(row.values()) for row in matrix.values())
    mean_score = {name: float(np.mean(values)) if values else None for name, values in scores.items()}
    return {"means": means, "confusion": matrix, "right": right, "of": total, "mean_score": mean_score}


def identities(clips: list[Tracked], units: dict[str, np.ndarray], root: Path, head: ParametricHead) -> dict:
    """Cosines between the clips of one person and of different persons."""
    persons = json.loads((root / "splits.json").read_text(encoding="utf-8"))["persons"]
    person_of = {file: person for person, files in persons.items() for file in files}
    vectors, names = [], []
    for clip in tqdm(clips, desc="identity"):
        score = emotion_score(emotion_from_action_units(units[clip.name], FPS))
        indices = {int(i) for i in neutral_frames(clip.track, score, 48)}
        vectors.append(identity_embedding(clip.track, SomeFrames(clip, indices), head, score)[0])
        names.append(person_of[clip.path.relative_to(root).as_posix()])
    cosine = np.stack(vectors) @ np.stack(vectors).T
    pairs = np.triu_indices(len(names), 1)
    is_same = (np.array(names)[:, None] == np.array(names)[None])[pairs]
    same, other = cosine[pairs][is_same], cosine[pairs][~is_same]
    wins = (same[:, None] > other).mean() + 0.5 * (same[:, None] == other).mean()
    confused = sorted(
        ((float(cosine[i, j]), clips[i].name, clips[j].name, bool(s)) for i, j, s in zip(*pairs, is_same, strict=True)),
        key=lambda row: -row[0] if row[3] else row[0],
    )
    return {
        "persons": len(set(names)), "clips": len(names), "same_pairs": int(is_same.sum()), "auc": float(wins),
        "same": {"mean": float(same.mean()), "min": float(same.min())},
        "other": {"mean": float(other.mean()), "max": float(other.max())},
        "least_alike_of_one_person": [row for row in confused if row[3]][-3:],
        "most_alike_of_two": [row for row in confused if not row[3]][-3:],
    }  # fmt: skip


def show(report: dict) -> None:
    """Prints the tables."""
    units = report["action_units"]
    names = sorted({name for unit in units.values() for name in unit["clips"]})
    cell = lambda value: "    -" if value is None else f"{value:5.2f}"  # noqa: E731
    print(f"\naction units of the fitted head against blendshapes, r\n{'':44s}" + "".join(f"{u:>7s}" for u in units))
    for name in names:
        print(f"{name[:44]:44s}" + "".join(f"  {cell(unit['clips'].get(name))}" for unit in units.values()))
    for key in ("median", "within_clips", "all_frames"):
        print(f"{key.upper().replace('_', ' '):44s}" + "".join(f"  {cell(unit[key])}" for unit in units.values()))
    for key, title in (("emotion", "fitted head alone"), ("emotion_with_blendshapes", "with blendshapes")):
        emotion = report[key]
        print(f"\nemotions, {title}: {emotion['right']} of {emotion['of']} labelled clips are right")
        print(f"mean score of {emotion['mean_score']}")
        print(f"{'label / found':44s}" + "".join(f"{e:>9s}" for e in EMOTIONS))
        for label, row in emotion["confusion"].items():
            print(f"{label:44s}" + "".join(f"{row[e] or '.':>9}" for e in EMOTIONS))
        for name, mean in emotion["means"].items():
            print(f"{name[:34]:34s} {mean['label'] or '-':9s}" + "".join(f"{mean[e]:9.2f}" for e in EMOTIONS))
    identity = report["identity"]
    print(f"\nidentity: {identity['clips']} clips of {identity['persons']} persons, AUC {identity['auc']:.3f}")
    print(f"one person {identity['same']}, two persons {identity['other']}")
    for row in identity["least_alike_of_one_person"] + identity["most_alike_of_two"]:
        print(f"  {row[0]:.2f} {'one person ' if row[3] else 'two persons'} {row[1]} / {row[2]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with clips/, motion/ and splits.json")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--face-landmarker", required=True, help="MediaPipe's face_landmarker.task")
    parser.add_argument("--only", nargs="*", default=[], help="parts of the names of the clips to take")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    head = ParametricHead.from_asset()
    paths = [path for folder in ("clips", "motion") for path in sorted((args.data / folder).rglob("*.mp4"))]
    paths = [path for path in paths if not args.only or any(part in path.name for part in args.only)]
    clips = [tracked(path, args.data, args.output, args.face_landmarker, head) for path in tqdm(paths, desc="tracking")]
    units = {clip.name: action_units_from_track(clip.track, head) for clip in clips}
    refined = {clip.name: refine_with_blendshapes(units[clip.name], clip.blendshapes, clip.names) for clip in clips}
    report = {
        "action_units": correlations(clips, units),
        "asked": ASKED,
        "emotion": emotions(clips, units),
        "emotion_with_blendshapes": emotions(clips, refined),
        "identity": identities(clips, units, args.data, head),
    }
    (args.output / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    show(report)


if __name__ == "__main__":
    main()
