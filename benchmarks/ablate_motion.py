"""Ablations of the motion network on unseen people: one training per part that is left out.

    python benchmarks/ablate_motion.py CLIPS --persons splits.json --lags lags.json --synthetic train.npz [--folds 1,2]
        [--only NAME ...] [--json OUT.json]

Each row trains a network that hears with the ear of `emotag-base-open` (`ARGUMENTS`), on the people of the other folds.
Columns: from sound alone the correlation of lip opening and width, with synchronised sound; with the person's action
units as well (METHOD 7, driven) the RMSE of the expression in hundredths; KL divergence of softmax(z_e) from the
teacher's emotion, and |g - e| (METHOD 4). Each row takes minutes.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from emotag_hf import EmoTaGModel, ParametricHead
from emotag_hf.constants import EXPRESSION_NAMES, OPEN_MODEL
from emotag_hf.models.modeling_motion import GatedResidualMotionNetwork
from emotag_hf.training.pretraining.hearing import heard_clips
from emotag_hf.training.pretraining.lip_space import LipSpace
from emotag_hf.training.pretraining.motion_data import (
    MotionClip,
    fold_of,
    in_step,
    load_clips,
    load_synthetic,
    read_persons,
)
from emotag_hf.training.pretraining.motion_losses import guidance_errors
from emotag_hf.training.pretraining.motion_scores import MotionScores, restore_opening, score_clips
from emotag_hf.training.pretraining.pretrain import Pretrainer
from emotag_hf.training.pretraining.pretrain_arguments import PretrainArguments
from emotag_hf.training.pretraining.recipe import WEIGHTS

ARGUMENTS = PretrainArguments(
    steps=160, batch_size=16, window=120, learning_rate=4e-4, trunk_rate=1.0, last_rate=4.0, ema=0.96, check_every=80,
    synthetic_share=0.125, stretch=0.0, augment=0.0,
)  # fmt: skip


class WithoutResidual(GatedResidualMotionNetwork):
    """motion = Base."""

    def _decode(self, audio, start, action_units, identity_embedding, emotion_logits, gate, *more):
        return super()._decode(audio, start, action_units, identity_embedding, emotion_logits, 0.0, *more)


class WithoutGate(GatedResidualMotionNetwork):
    """motion = Base + Residual."""

    def _decode(self, audio, start, action_units, identity_embedding, emotion_logits, gate, *more):
        return super()._decode(audio, start, action_units, identity_embedding, emotion_logits, 1.0, *more)


# Name -> network, arguments, weights, whether it starts from synthetic pretraining, whether the sound is synchronised.
ROWS = {
    "all": (GatedResidualMotionNetwork, {}, {}, True, True),
    "without the residual": (WithoutResidual, {}, {}, True, True),
    "without the gate (g = 1)": (WithoutGate, {}, {}, True, True),
    "without guidance": (GatedResidualMotionNetwork, {}, {"kl": 0.0, "score": 0.0, "made_up": 0.0}, True, True),
    "without AdaIN": (GatedResidualMotionNetwork, {"told": 0.0}, {}, True, True),
    "without synthetic speech": (
        GatedResidualMotionNetwork, {"synthetic_share": 0.0, "learning_rate": 1e-3}, {}, False, True,
    ),
    "without offset correction": (GatedResidualMotionNetwork, {}, {}, True, False),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("clips", nargs="+")
    parser.add_argument("--persons", required=True)
    parser.add_argument("--lags", required=True)
    parser.add_argument("--synthetic", required=True)
    parser.add_argument("--skip", default="", help="clips that are copies of others, by comma")
    parser.add_argument("--folds", default="0,1,2,3")
    parser.add_argument("--only", nargs="*", choices=list(ROWS), metavar="NAME")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    lags = json.loads(Path(args.lags).read_text())
    clips = load_clips(args.clips, read_persons(args.persons), [n for n in args.skip.split(",") if n], lags)
    synthetic = load_synthetic(args.synthetic, 100)
    found = {}
    for name in args.only or ROWS:
        parts = [measure(name, clips, synthetic, int(fold)) for fold in args.folds.split(",")]
        joined = MotionScores.joined([part[0] for part in parts])
        others = np.concatenate([part[1] for part in parts]).mean(0)
        found[name] = {
            "opening": joined.mean()["opening"], "interval": joined.interval(), "width": joined.mean()["width"],
            "driven_rmse": others[0], "kl": others[1], "gate_error": others[2],
        }  # fmt: skip
        print(name, json.dumps(found[name], default=lambda v: round(float(v), 3)), flush=True)
    if args.json:
        args.json.write_text(json.dumps(found, indent=2, default=float) + "\n")


def measure(name: str, clips: Sequence[MotionClip], synthetic: Sequence[MotionClip], fold: int):
    """Scores of the fold's people with a training on the others, and `[n, 3]` of the other columns."""
    kind, arguments, weights, pretrained, corrected = ROWS[name]
    unheard = [c for c in clips if fold_of(c.person, 4) == fold]
    heard = [c for c in clips if fold_of(c.person, 4) != fold]
    heard = heard if corrected else [in_step(c, 0.0) for c in heard]
    begun, network = EmoTaGModel.from_pretrained(OPEN_MODEL).motion, None
    if pretrained:
        network = kind(begun.config)
        network.load_state_dict(copy.deepcopy(begun.state_dict()))
        restore_opening(network, heard, LipSpace(ParametricHead.from_asset()))
    ear = begun.audio_net.ear
    heard, synthetic = heard_clips(heard, ear, augmented=1), heard_clips(synthetic, ear, ("full",), augmented=0)
    trainer = Pretrainer(
        heard, synthetic, (), replace(ARGUMENTS, **arguments), replace(WEIGHTS, **weights), network=network
    )
    trainer.run()
    rows = [driven(trainer.averaged, clip, "AdaIN" not in name) for clip in unheard]
    return score_clips(trainer.averaged, unheard, trainer.lips), np.array(rows)


@torch.no_grad()
def driven(network: GatedResidualMotionNetwork, clip: MotionClip, told: bool) -> tuple[float, float, float]:
    """Error of the expression, of z_e and of g, given the person's action units and identity."""
    count, keep = len(clip), clip.valid
    out = network.eval()(
        clip.sound[None].float(),
        action_units=clip.units[None],
        identity_embedding=clip.identity[None] if told else None,
    )
    wrong = out.expression[0, :count][keep] - clip.face[:, : len(EXPRESSION_NAMES)].float()[keep]
    kl, score = guidance_errors(out.emotion_logits[:, :count], out.gate[:, :count], clip.emotion[None])
    return float(100 * wrong.square().mean().sqrt()), float(kl[0][keep].mean()), float(score[0][keep].mean())


if __name__ == "__main__":
    main()
