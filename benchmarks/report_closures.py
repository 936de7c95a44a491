"""Lips on sounds whose times are known: shut on p, b and m and on nothing else, at the teeth on f, pursed on w.

    python benchmarks/report_closures.py SPEECH.npz ... [--model NAME|DIR ...] [--ear FILE]
    python benchmarks/report_closures.py --clips TALKERS --phones PHONES.json --facts CLIPS.json [--trained OUT]

SPEECH are held-out files of `conversion_scripts/synthesize_speech`. With `--clips`, tracked clips of people
(`track_talkers.py`) whose phonemes `synthesize_speech/align.py` found: then the person's own lips stand beside the
predicted ones, and `--trained` (of `emotag pretrain RECIPE.toml`) takes the network that was not taught by the person.
A gap under a tenth of the clip's own range (at least 3 mm) is shut; p, b and m count as shut where that is so within a
frame of the middle of the sound, other frames where they are neither silent nor within two frames of one.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from emotag_hf import EmoTaGModel
from emotag_hf.constants import MOTION_FPS
from emotag_hf.models.lip_closures import VISEMES
from emotag_hf.models.modeling_head import ParametricHead
from emotag_hf.training.pretraining.lip_space import LipSpace
from emotag_hf.training.pretraining.motion_data import MotionClip, fold_of, load_synthetic, load_tracked
from emotag_hf.training.pretraining.motion_scores import closure_rows, lip_curves, true_curves
from emotag_hf.training.pretraining.pretrain import load_motion
from emotag_hf.training.pretraining.recipe import read_clip_facts

SHAPES = {"f, v": "ff", "w, u": "uu", "s, z": "ss"}  # measured besides p, b, m


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("speech", nargs="*", type=Path)
    parser.add_argument("--model", nargs="+", default=["emotag-base", "emotag-base-open"])
    parser.add_argument("--ear", help="ear of a folder that pretraining wrote, if not where its config says")
    parser.add_argument("--limit", type=int, default=200, help="recordings of a file (default: %(default)s)")
    parser.add_argument("--clips", type=Path)
    parser.add_argument("--phones", type=Path)
    parser.add_argument("--facts", type=Path)
    parser.add_argument("--trained", type=Path)
    parser.add_argument("--folds", type=int, default=4)
    args = parser.parse_args()
    torch.set_num_threads(1)
    lips = LipSpace(ParametricHead.from_asset())
    show("", {name: name for name in ("n", "shut", "elsewhere", "silence", *SHAPES)})
    for path in args.speech:
        clips = load_synthetic(path, args.limit)
        for name in args.model:
            network = load(name, args.ear)
            curves = [lip_curves(network, clip, lips) for clip in clips]
            show(f"{path.parent.name} {name}", scores(curves, clips))
    if args.clips:
        facts, phones = read_clip_facts(args.facts), json.loads(args.phones.read_text("utf-8"))
        kept = {name: fact for name, fact in facts.items() if name in phones}
        clips = load_tracked(args.clips, {n: f.person for n, f in kept.items()}, {n: f.lag for n, f in kept.items()})
        clips = [labelled(clip, phones[clip.name]) for clip in clips if clip.name in kept]
        show("the people themselves", scores([true_curves(clip, lips) for clip in clips], clips))
        for name in [args.trained] if args.trained else args.model:
            folds: dict[Path | str, object] = {}
            curves = []
            for clip in clips:
                source = name
                if args.trained:
                    fold = args.trained / f"fold_{fold_of(clip.person, args.folds)}"
                    source = fold if fold.is_dir() else args.trained
                if source not in folds:
                    folds[source] = load(source, args.ear)
                curves.append(lip_curves(folds[source], clip, lips))
            show(f"sound alone: {name}", scores(curves, clips))


def load(name: Path | str, ear: str | None):
    """The motion network of a model, or of a folder that pretraining wrote."""
    if (Path(name) / "motion.safetensors").is_file():
        return load_motion(name, ear)
    return EmoTaGModel.from_pretrained(name).motion


def labelled(clip: MotionClip, phones: list[tuple[str, float, float]]) -> MotionClip:
    """The clip with the visemes that are heard in each frame, and the middle frames of p, b and m."""
    classes = {"P": "pp", "B": "pp", "M": "pp", "F": "ff", "V": "ff", "W": "uu", "UW": "uu", "S": "ss", "Z": "ss"}
    for name, start, end in phones:
        # The clip's sound is moved into step with the picture by its lag.
        first, last = (round(t * MOTION_FPS - clip.lag) for t in (start, end))
        rows = slice(max(0, first), max(0, last))
        clip.visemes[rows] = 0 if name == "SIL" else VISEMES.index(classes.get(name, "schwa"))
        middle = round((start + end) / 2 * MOTION_FPS - clip.lag)
        if classes.get(name) == "pp" and 0 <= middle < len(clip):
            clip.closed[middle] = True
    clip.visemes[clip.visemes < 0] = 0
    return clip


def scores(curves: list[dict[str, np.ndarray]], clips: list[MotionClip]) -> dict[str, float | int]:
    """`closure_rows`, and the share of each of `SHAPES` with lips as that sound has them: for f a gap under 35 % of the
    clip's range, for w a width below its median, for s teeth to be seen (a gap of 5 to 60 %)."""
    found = closure_rows([curve["opening"] for curve in curves], clips)
    right: dict[str, list[bool]] = {name: [] for name in SHAPES}
    for curve, clip in zip(curves, clips, strict=True):
        gap, width, seen = curve["opening"], curve["width"], clip.visemes.numpy()
        share = gap / max(float(np.quantile(gap, 0.98)), 3.0)
        middle = float(np.median(width[seen > 0])) if (seen > 0).any() else 0.0
        tests = {"ff": share < 0.35, "uu": width < middle, "ss": (share > 0.05) & (share < 0.6)}
        for name, viseme in SHAPES.items():
            right[name] += tests[viseme][: len(seen)][seen[: len(gap)] == VISEMES.index(viseme)].tolist()
    means = {name: float(np.mean(values)) if len(values) else float("nan") for name, values in found.items()}
    return {"n": len(found["shut"])} | means | {n: float(np.mean(v)) if v else float("nan") for n, v in right.items()}


def show(name: str, row: dict) -> None:
    print(
        f"{name:44s}" + "".join(f"{v:10.3f}" if isinstance(v, float) else f"{v:>10}" for v in row.values()), flush=True
    )


if __name__ == "__main__":
    main()
