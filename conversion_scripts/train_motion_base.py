"""Trains the motion network of `emotag-base` on real people, starting from that of `train_motion_open.py`.

    python conversion_scripts/train_motion_base.py CLIPS --persons splits.json --leave-out may,obama \
        --start VOICES --synthetic DATA/train.npz NATURAL/train.npz HUMAN/train.npz transcribed.npz \
        --heldout DATA/heldout.npz -o OUT

In: processed clips and their persons, speech with known phoneme times. Out: `OUT/motion.safetensors`,
`OUT/motion_config.json`, `OUT/report.json`; next to them `fold_0` ... : networks for four-fold cross-validation over
people. Each person is scored by the network that was not trained on them; `report.json` has the scores. `OUT/lags.json`
has the delay of each clip's sound in frames, estimated by the network without the person; then everything is trained
again with synchronised sound. About two minutes per network on one core.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path

import torch

from emotag_hf import ParametricHead
from emotag_hf.training.pretraining.lip_space import LipSpace
from emotag_hf.training.pretraining.motion_data import (
    MotionClip,
    fold_of,
    in_step,
    load_clips,
    load_synthetic,
    read_persons,
)
from emotag_hf.training.pretraining.motion_losses import MotionWeights
from emotag_hf.training.pretraining.motion_scores import (
    MotionScores,
    closures,
    find_lag,
    restore_opening,
    restore_spread,
    score_clips,
)
from emotag_hf.training.pretraining.pretrain import Pretrainer, load_motion
from emotag_hf.training.pretraining.pretrain_arguments import PretrainArguments

ARGUMENTS = PretrainArguments(
    steps=160, batch_size=16, window=120, learning_rate=4e-4, trunk_rate=1.0, last_rate=4.0, ema=0.96, check_every=80,
    synthetic_share=0.125,
)  # fmt: skip
# People teach how lips move; synthetic speech, whose times are known, when they are shut. Correlation counts most: it
# is what of a person's motion can be heard at all.
WEIGHTS = MotionWeights(
    table=0.0, rest=1.0, correlation=6.0, velocity=0.1, spoken=1.0, press=0.5, closure=0.55, silence=0.4, visemes=0.6,
    seen=1.0,
)  # fmt: skip


def train(clips: list[MotionClip], synthetic: list[MotionClip], start, out: Path) -> Pretrainer:
    """One network, its spread restored, written to `out`."""
    network = copy.deepcopy(start)
    restore_opening(
        network, clips, LipSpace(ParametricHead.from_asset())
    )  # else that alone would take most of the steps
    trainer = Pretrainer(clips, synthetic, (), ARGUMENTS, WEIGHTS, network)
    trainer.run()
    restore_spread(trainer.averaged, clips, trainer.lips)
    out.mkdir(parents=True, exist_ok=True)
    trainer.write(out, trainer.report())
    return trainer


def train_folds(clips, synthetic, start, folds: int, out: Path) -> tuple[MotionScores, dict[str, float]]:
    """Trains a network per fold; returns scores on the unseen people, and the delay of their sound."""
    scores, lags = [], {}
    for fold in range(folds):
        unheard = [c for c in clips if fold_of(c.person, folds) == fold]
        heard = [c for c in clips if fold_of(c.person, folds) != fold]
        trainer = train(heard, synthetic, start, out / f"fold_{fold}")
        scores.append(score_clips(trainer.averaged, unheard, trainer.lips))
        for clip in unheard:
            further = find_lag(trainer.averaged, clip, trainer.lips)
            lags[clip.name] = clip.lag + further
        print(f"fold {fold}: {len(unheard)} clips, {scores[-1].mean()}", flush=True)
    return MotionScores.joined(scores), lags


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("clips", nargs="+", help="processed clips, or folders of them")
    parser.add_argument("--persons", required=True, help="JSON: person -> clips")
    parser.add_argument("--lags", help="JSON: clip -> frames by which its sound is late, to begin with")
    parser.add_argument("--synthetic", nargs="+", required=True, help="files of synthesize_speech")
    parser.add_argument("--heldout", help="heldout.npz of synthesize_speech, to see whether lips shut")
    parser.add_argument("--skip", default="", help="clips that are copies of others, by comma")
    parser.add_argument("--leave-out", default="", help="persons that the last network must not have heard, by comma")
    parser.add_argument("--start", help="folder of a pretraining (default: the embedded open one)")
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    names = lambda text: [name for name in text.split(",") if name]  # noqa: E731
    lags = json.loads(Path(args.lags).read_text()) if args.lags else None
    clips = load_clips(args.clips, read_persons(args.persons), names(args.skip), lags)
    start = load_motion(args.start)
    start.emotion_decoder.use_prototypes_()
    synthetic = [clip for path in args.synthetic for clip in load_synthetic(path)]
    for number in range(args.rounds):
        scores, found = train_folds(clips, synthetic, start, args.folds, args.output)
        print(f"round {number}: {scores.mean()}, 95 % of the opening {scores.interval()}", flush=True)
        if number + 1 < args.rounds:
            clips = [in_step(clip, found[clip.name]) for clip in clips]
    (args.output / "lags.json").write_text(json.dumps({c.name: c.lag for c in clips}, indent=1) + "\n")
    unheard = set(names(args.leave_out))
    last = train([clip for clip in clips if clip.person not in unheard], synthetic, start, args.output)
    report = last.report() | {
        "left_out": sorted(unheard),
        "shut_on_p_b_m": closures(last.averaged, load_synthetic(args.heldout), last.lips) if args.heldout else None,
        "unheard_people": {"mean": scores.mean(), "opening_interval": scores.interval(), "people": scores.by_person()},
    }
    last.write(args.output, report)


if __name__ == "__main__":
    main()
