"""Adaptation: quality against training time on later frames, memory, and ablations.

    python benchmarks/bench_adapt.py CLIP [CLIP ...]                # processed clips: first half trains, second tests
    python benchmarks/bench_adapt.py CLIP --without correctives refine ssim ema prior smooth --with densify
    python benchmarks/bench_adapt.py CLIP --frames 50 125 375 750       # by length of the training part

Scores are dB on up to 14 frames spread over the test part, tracked by pixels (METHOD 7, oracle), before any encoding.
Seconds depend on the machine; `ms/step` is printed as well.
"""

from __future__ import annotations

import argparse
import resource
from dataclasses import replace

import numpy as np
import torch

from emotag_hf import AdaptArguments, GaussianPrior, ProcessedClip
from emotag_hf.preprocessing.tracking.head_track import EYE_POINTS, MOUTH_POINTS
from emotag_hf.preprocessing.tracking.photometric import draw, refine_photometric
from emotag_hf.training.gaussians.gaussian_trainer import GaussianTrainer
from emotag_hf.training.gaussians.scene import TrainingScene
from emotag_hf.utils.asset_paths import default_prior_path

TESTED = 14
WITHOUT = {
    "correctives": {"num_correctives": 1, "corrective_weight": 1e6},
    "refine": {"refine": False},
    "ssim": {"ssim_weight": 0.0},
    "ema": {"ema": 0.0},
    "smooth": {"smooth_weight": 0.0},
    "crops": {"crops_from": 1.0},
    "prior": {},
}
WITH = {
    "densify": {"densify": True},
    "half": {"num_surface": 7000, "num_beside": 3500},
    "double": {"num_surface": 28000, "num_beside": 14000},
}


def score(trainer: GaussianTrainer, test: list[int]) -> np.ndarray:
    """Mean dB of face box, mouth and eyes over the frames."""
    scene = trainer.scene
    with trainer.averaged():
        motion = refine_photometric(scene.track, trainer, scene.clip.frame, test, scene.background).track.motion
        rows = [frame_score(trainer, motion, i) for i in test]
    return np.mean(rows, 0)


def frame_score(trainer: GaussianTrainer, motion, index: int) -> list[float]:
    scene = trainer.scene
    truth = torch.from_numpy(scene.clip.frame(index)).float() / 255
    with torch.no_grad():
        colors, alpha = draw(motion[index : index + 1], trainer, scene.shape, scene.camera)
    picture = (colors + (1 - alpha) * scene.background).clamp(0, 1)
    height, width = truth.shape[:2]
    points = scene.track.landmarks[index, :, :2]
    boxes = [(slice(height // 4, height * 7 // 8), slice(width // 4, width * 3 // 4))]
    boxes += [box(points[list(group)], pad, height, width) for group, pad in ((MOUTH_POINTS, 0.2), (EYE_POINTS, 0.1))]
    return [-10 * np.log10(max((picture[b] - truth[b]).square().mean().item(), 1e-10)) for b in boxes]


def box(points: torch.Tensor, pad: float, height: int, width: int) -> tuple[slice, slice]:
    low, high = points.min(0).values, points.max(0).values
    middle, reach = (low + high) / 2, (high - low) / 2 * (1 + pad)
    (x0, y0), (x1, y1) = (middle - reach).clamp_min(0).int().tolist(), (middle + reach + 1).int().tolist()
    return slice(y0, min(y1, height)), slice(x0, min(x1, width))


def run(clip: ProcessedClip, name: str, arguments: AdaptArguments, prior, frames: int | None = None) -> None:
    train, test = clip.split(0.5)
    train = list(train)[-frames:] if frames else list(train)
    test = [test[i] for i in np.unique(np.linspace(0, len(test) - 1, TESTED).astype(int))]
    trainer = GaussianTrainer(TrainingScene(clip, train), arguments, prior)
    curve, marks = [], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]

    def look(t: GaussianTrainer) -> None:
        if name == "as it is" and marks and t.progress >= marks[0]:
            marks.pop(0)
            curve.append((t.seconds, score(t, test[::3])[0]))

    report = trainer.train(look)
    found = score(trainer, test)
    per_step = 1000 * report.seconds / report.steps
    line = f"{clip.path.name[:28]:28s} {name:20s} {len(train):5d} frames"
    line += f"  face {found[0]:5.2f}  mouth {found[1]:5.2f}  eyes {found[2]:5.2f}"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if not curve:
        line += f"  {report.seconds:5.0f} s  {per_step:4.0f} ms/step"
    print(f"{line}  peak {peak:4.0f} MB", flush=True)
    if curve:
        last = score(trainer, test[::3])[0]
        steps = [round(m * arguments.steps) for m in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)]
        near = next((s for s, (_, value) in zip(steps, curve) if value > last - 0.5), arguments.steps)
        print("   face box by share of steps: " + " ".join(f"{value:.1f}" for _, value in curve) + f" {last:.1f}")
        print(f"   within 0.5 dB of the last after {near} steps of {arguments.steps}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="*", help="processed clips; without any, nothing is measured")
    parser.add_argument("--without", nargs="*", default=[], choices=WITHOUT)
    parser.add_argument("--with", dest="added", nargs="*", default=[], choices=WITH)
    parser.add_argument("--frames", nargs="*", type=int, default=[])
    parser.add_argument("--skip-base", action="store_true")
    args = parser.parse_args()
    if not args.clips:
        print("give processed clips: python benchmarks/bench_adapt.py CLIP ...")
        return
    torch.set_num_threads(1)
    base, prior = AdaptArguments.preset("fast"), GaussianPrior.from_pretrained(default_prior_path())
    for path in args.clips:
        clip = ProcessedClip.open(path)
        if not args.skip_base:
            run(clip, "as it is", base, prior)
        for name in args.without:
            run(clip, f"without {name}", replace(base, **WITHOUT[name]), None if name == "prior" else prior)
        for name in args.added:
            changed = replace(base, **WITH[name])
            run(clip, f"with {name}", changed, prior)
        for count in args.frames:
            run(clip, f"last {count} frames", base, prior, count)


if __name__ == "__main__":
    main()
