"""Lip sync on unseen people: lips predicted from sound alone, compared with the clip's.

    python benchmarks/report_lip_sync.py CLIPS --persons splits.json --trained OUT [--render] [--only CLIP ...]
        [--avatar CLIP=DIR ...] [--published DIR] [--adapt] [--json OUT.json]

CLIPS are processed clips, or a folder of tracked ones (`conversion_scripts/track_talkers.py`; nothing is rendered for
these); OUT is what `emotag pretrain RECIPE.toml` wrote: `fold_0` ..., of which the one without the clip's person is
used, and `lags.json`, clip -> frames by which its sound is late. Always: correlation of opening, width and
jaw with the clip's track, heard with the whole look-ahead and with that of a stream, compared with `emotag-base-open`,
the energy of the sound and the mean (0 by definition), each with a 95 % interval over persons. `--render` renders the
demo avatar for each clip, `--avatar` the person's own, and compares landmarks in both videos (`evaluation.metrics`).
`--published` scores `<scene>__<method>.mp4` against `<scene>__gt.mp4` of a folder likewise. `--adapt` runs the second
stage of `adapt` on five seconds of each clip of at least ten, and measures on the rest.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

from emotag_hf import EmoTaGModel, EmoTaGPipeline, ProcessedClip
from emotag_hf.constants import OPEN_MODEL
from emotag_hf.evaluation.metrics import score_frames, score_videos
from emotag_hf.pipelines.talking_head import LazyFrames, make_background
from emotag_hf.preprocessing.data.dataset import find_clips
from emotag_hf.rendering.compositing import to_uint8
from emotag_hf.training.adaptation.personalise import personalise_motion
from emotag_hf.training.pretraining.lip_space import LipSpace
from emotag_hf.training.pretraining.motion_data import MotionClip, fold_of, load_clips, load_tracked, read_persons
from emotag_hf.training.pretraining.motion_scores import MEASURES, MotionScores, score_clips, score_curves
from emotag_hf.training.pretraining.pretrain import load_motion

SIZE = 512  # size of the rendered frames, as in published videos; at 256 landmarks lose r 0.02
LESSON, LEAST = 125, 250  # frames for the second stage, and minimum length of a clip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("clips", nargs="+")
    parser.add_argument("--persons", required=True)
    parser.add_argument("--trained", type=Path, required=True)
    parser.add_argument("--skip", default="", help="clips that are copies of others, by comma")
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--only", nargs="*", help="clips to render (default: all)")
    parser.add_argument("--render", action="store_true")
    parser.add_argument("--avatar", action="append", default=[], metavar="CLIP=DIR")
    parser.add_argument("--published", type=Path)
    parser.add_argument("--adapt", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    lags = json.loads((args.trained / "lags.json").read_text())
    persons, skipped = read_persons(args.persons), [n for n in args.skip.split(",") if n]
    if any(Path(args.clips[0]).glob("*.safetensors")):
        listed = {name: lag for name, lag in lags.items() if name not in skipped}
        clips, folders = load_tracked(args.clips[0], persons, listed), {}
    else:
        clips = load_clips(args.clips, persons, skipped, lags)
        folders = {p.name: p for folder in args.clips for p in find_clips(folder)}
    # A fold without a network of its own is scored by the one for everybody, which did not hear its people either.
    paths = [args.trained / f"fold_{fold}" for fold in range(args.folds)]
    networks = [load_motion(path if path.is_dir() else args.trained) for path in paths]
    unheard = {clip.name: networks[fold_of(clip.person, len(networks))] for clip in clips}
    open_network = EmoTaGModel.from_pretrained(OPEN_MODEL).motion
    pipeline = EmoTaGPipeline.from_pretrained()
    lips = LipSpace(pipeline.model.head)

    found: dict[str, dict] = {}
    by_track = {
        "not having heard the person": [score_clips(unheard[c.name], [c], lips) for c in clips],
        "the same with 0.16 s of look-ahead": [score_clips(unheard[c.name], [c], lips, look_ahead=0.16) for c in clips],
        "emotag-base-open": [score_clips(open_network, [c], lips) for c in clips],
        "energy of the sound": [energy_score(c, lips) for c in clips],
    }
    for name, parts in by_track.items():
        scores = MotionScores.joined(parts)
        found[name] = {"mean": scores.mean(), "opening_interval": scores.interval(), "people": scores.by_person()}
        show(name, scores)

    chosen = [c for c in clips if not args.only or c.name in args.only]
    avatars = dict(text.split("=", 1) for text in args.avatar)
    jobs = [("the demo avatar", pipeline, chosen if args.render else [])]
    jobs += [(f"{n}'s own avatar", EmoTaGPipeline.from_pretrained(d), [c for c in clips if c.name == n])
             for n, d in avatars.items()]  # fmt: skip
    for name, avatar, which in jobs:
        rows = {}
        for clip in which:
            source = ProcessedClip.open(folders[clip.name])
            scores = score_frames(drawn(avatar, unheard[clip.name], clip), pictures(source, len(clip)))
            source.close()
            rows[clip.name] = scores.summary()["lip_r"]
            print(f"rendered, {name}: {clip.name} {rows[clip.name]:.2f}", flush=True)
        if rows:
            found[f"rendered, {name}"] = rows
            print(f"rendered, {name}: mean of {len(rows)} clips {np.mean(list(rows.values())):.3f}", flush=True)
    if args.published:
        found["published"] = published(args.published)
    if args.adapt:
        found["adapted"] = adapted(pipeline.model, clips, unheard, folders, lips)
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


class InStep:
    """A processed clip whose sound is known to be late by so many frames."""

    def __init__(self, clip: ProcessedClip, lag: float):
        self._clip, self.audio_offset = clip, SimpleNamespace(frames=lag, reliable=True)

    def __getattr__(self, name: str):
        return getattr(self._clip, name)


def show(name: str, scores: MotionScores) -> None:
    """One line."""
    mean, (low, high) = scores.mean(), scores.interval()
    numbers = " ".join(f"{key} {value:.2f}" for key, value in mean.items())
    print(f"{name}: {numbers}; opening by person {low:.2f} to {high:.2f}", flush=True)


def energy_score(clip: MotionClip, lips: LipSpace) -> MotionScores:
    """The mean of the log-mel bands, smoothed over five frames, in the place of every curve."""
    bands = clip.sound[:, :80].float().mean(1).numpy()
    per_frame = clip.rate // 25
    bands = np.pad(bands, (0, max(0, len(clip) * per_frame - len(bands))))[: len(clip) * per_frame]
    energy = np.convolve(bands.reshape(len(clip), per_frame).mean(1), np.ones(5) / 5, "same")
    return score_curves([dict.fromkeys(MEASURES, energy)], [clip], lips)


@torch.no_grad()
def drawn(pipeline: EmoTaGPipeline, motion, clip: MotionClip) -> Iterator[np.ndarray]:
    """Frames of the avatar that speaks the clip's sound, head still, uint8."""
    model = pipeline.model
    model.motion = motion  # without a Voice Listener, which has no part in lips
    predicted = model.predict_motion(
        clip.sound[None].float(),
        num_frames=len(clip),
        fps=25,
        loudness=np.zeros(len(clip)),
        emotion="neutral",
        head_motion=0.0,
    )
    background = make_background(None, SIZE, SIZE, model.config.backdrop)
    frames = LazyFrames(model, predicted.motion, model.camera(SIZE, SIZE), background, "np")
    for i in range(len(frames)):
        yield to_uint8(torch.as_tensor(frames[i]))


def pictures(clip: ProcessedClip, count: int) -> Iterator[np.ndarray]:
    """The clip's frames, made small."""
    for i in range(count):
        yield np.asarray(Image.fromarray(clip.frame(i)).resize((SIZE, SIZE), Image.Resampling.BOX))


def published(folder: Path) -> dict[str, dict[str, float]]:
    """lip_r of each method's video of each scene."""
    rows: dict[str, dict[str, float]] = {}
    for truth in sorted(folder.glob("*__gt.mp4")):
        scene = truth.name.removesuffix("__gt.mp4")
        for path in sorted(folder.glob(f"{scene}__*.mp4")):
            method = path.stem.split("__")[1]
            if method != "gt":
                rows.setdefault(method, {})[scene] = score_videos(path, truth).summary()["lip_r"]
    for method, scenes in rows.items():
        print(f"published {method}: {len(scenes)} scenes, lip r {np.mean(list(scenes.values())):.2f} {scenes}")
    return rows


def adapted(model: EmoTaGModel, clips, unheard, folders, lips: LipSpace) -> dict[str, dict]:
    """r of the opening after the first five seconds, before and after adapting to these."""
    rows = {}
    for clip in clips:
        if len(clip) < LEAST:
            continue
        model.motion = copy.deepcopy(unheard[clip.name])
        model.identity_embedding.zero_()
        rest = [replace(clip, valid=clip.valid & (torch.arange(len(clip)) >= LESSON))]
        before = score_clips(model.motion, rest, lips)
        source = ProcessedClip.open(folders[clip.name])
        report = personalise_motion(model, InStep(source, clip.lag), range(LESSON))
        source.close()
        after = score_clips(model.motion, rest, lips, identity=report.identity_set)
        rows[clip.name] = {"before": before.mean(), "after": after.mean(), "status": report.status}
        print(f"adapted {clip.name}: {report.status} {before.mean()} -> {after.mean()}", flush=True)
    return rows


if __name__ == "__main__":
    main()
