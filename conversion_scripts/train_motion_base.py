r"""Trains the motion network of `emotag-base`, which hears with an ear (`teach_ear`), on tracked clips of people.

    python conversion_scripts/train_motion_base.py TALKERS --clips clips.json --ear ear-base.safetensors \
        --head tuned.pt --leave-out may,obama --synthetic NATURAL/train.npz HUMAN/train.npz \
        --heldout NATURAL/heldout.npz -o OUT

In: tracked clips (`track_talkers.py`) and the same `clips.json` as for `teach_ear`, in which clips that are scored have
`"tested": true` (the ear must not have been tuned on them); speech with known phoneme times. Out:
`OUT/motion.safetensors`, `OUT/motion_config.json`, `OUT/report.json`; next to them `fold_0` ... : networks for
four-fold cross-validation over the people of the tested clips, each scored by the network that was not trained on them.
The ear hears everything once (`pretraining.hearing`), so a network takes some minutes on one core.
"""

from __future__ import annotations

import argparse
import copy
import json
from dataclasses import replace
from pathlib import Path

import torch

from emotag_hf import EmoTaGModel, ParametricHead
from emotag_hf.constants import DEFAULT_MODEL
from emotag_hf.models.configuration_emotag import EmoTaGMotionConfig
from emotag_hf.models.ear_asset import ear_sha256
from emotag_hf.models.modeling_motion import GatedResidualMotionNetwork
from emotag_hf.training.pretraining.hearing import heard_clips
from emotag_hf.training.pretraining.lip_space import LipSpace
from emotag_hf.training.pretraining.motion_data import MotionClip, fold_of, load_synthetic, load_tracked
from emotag_hf.training.pretraining.motion_losses import MotionWeights
from emotag_hf.training.pretraining.motion_scores import (
    MotionScores,
    closures,
    restore_opening,
    restore_spread,
    score_clips,
)
from emotag_hf.training.pretraining.pretrain import Pretrainer
from emotag_hf.training.pretraining.pretrain_arguments import PretrainArguments

ARGUMENTS = PretrainArguments(
    steps=600, batch_size=16, window=120, learning_rate=8e-4, trunk_rate=0.5, last_rate=2.0, ema=0.98, check_every=100,
    synthetic_share=0.19, stretch=0.0, augment=0.0,
)  # fmt: skip
# People teach how lips move; synthetic speech, whose times are known, when they are shut. Correlation counts most: it
# is what of a person's motion can be heard at all.
WEIGHTS = MotionWeights(
    table=0.0, rest=1.0, correlation=6.0, velocity=0.1, spoken=1.0, press=0.5, closure=0.55, silence=0.4,
    visemes=0.6, seen=1.0,
)  # fmt: skip
# First, on speech without people: to tell p, b and m from other sounds takes longer than to learn lips.
FIRST = replace(ARGUMENTS, steps=500, synthetic_share=1.0, trunk_rate=1.0, last_rate=1.0)
# Parts that do not depend on how sound is heard; they start from those of the last `emotag-base`.
_KEPT = (
    "expr_net", "id_net", "emotion_decoder", "mouth_triplane", "listener", "emotion_encoder", "gate",
)  # fmt: skip
LOOK_AHEADS = ("full", 0.16)


def new_network(ear: Path, name: str, head: Path) -> GatedResidualMotionNetwork:
    """A network that hears with `ear`, which its config calls `name`; its Audio Net begins with the head that the ear
    was tuned with."""
    old = EmoTaGModel.from_pretrained(DEFAULT_MODEL).motion
    sizes = {
        key: getattr(old.config, key)
        for key in ("hidden_dim", "listener_dim", "mouth_code_dim", "triplane_dim", "triplane_resolution", "dropout")
    }
    config = EmoTaGMotionConfig(
        frontend="whisper_blocks", audio_encoder=str(ear), audio_encoder_sha256=ear_sha256(ear), num_layers=1, **sizes
    )
    torch.manual_seed(0)
    network = GatedResidualMotionNetwork(config)
    config.audio_encoder = name
    taught = torch.load(head)
    with torch.no_grad():
        for part in _KEPT:
            getattr(network, part).load_state_dict(getattr(old, part).state_dict())
        for part in (network.emotion_encoder, network.gate):
            part[0].weight[:, : config.hidden_dim] = 0  # the audio feature, which means something else now
        own = network.audio_net
        for part, prefix in ((own.norm, "norm."), (own.input, "input."), (own.past.conv, "past.")):
            part.load_state_dict({k.removeprefix(prefix): v for k, v in taught.items() if k.startswith(prefix)})
    return network


def learn_phonemes(network: GatedResidualMotionNetwork, synthetic: list[MotionClip]) -> GatedResidualMotionNetwork:
    """The network after training on synthetic speech alone, which it hears but whose lips it does not copy."""
    trainer = Pretrainer((), synthetic, (), FIRST, WEIGHTS, network)
    trainer.run()
    return trainer.averaged.requires_grad_(True)


def train(
    heard: list[MotionClip], clips: list[MotionClip], synthetic: list[MotionClip], start, out: Path
) -> Pretrainer:
    """One network on `heard`, its mean opening and spread restored on `clips`, written to `out`."""
    network, lips = copy.deepcopy(start), LipSpace(ParametricHead.from_asset())
    restore_opening(network, clips, lips)  # else that alone would take most of the steps
    trainer = Pretrainer(heard, synthetic, (), ARGUMENTS, WEIGHTS, network)
    trainer.run()
    # Closures and silence, which only synthetic speech teaches, bias the mean opening downwards.
    restore_opening(trainer.averaged, clips, trainer.lips)
    restore_spread(trainer.averaged, clips, trainer.lips)
    out.mkdir(parents=True, exist_ok=True)
    trainer.write(out, trainer.report())
    return trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("talkers", type=Path, help="folder of tracked clips")
    parser.add_argument("--clips", type=Path, required=True, help="JSON: clip -> person, lag, tested")
    parser.add_argument("--ear", type=Path, required=True)
    parser.add_argument("--ear-name", default="ear-base", help="what the config calls it (default: %(default)s)")
    parser.add_argument("--head", type=Path, required=True, help="what `teach_ear tune` wrote")
    parser.add_argument("--synthetic", nargs="+", required=True, help="files of synthesize_speech")
    parser.add_argument("--heldout", help="heldout.npz of synthesize_speech, to see whether lips shut")
    parser.add_argument("--leave-out", default="", help="persons that the last network must not have heard, by comma")
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--most", type=int, default=150, help="recordings of each file of synthetic speech")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    listed = json.loads(args.clips.read_text())
    persons = {name: facts["person"] for name, facts in listed.items()}
    clips = load_tracked(args.talkers, persons, {name: facts["lag"] for name, facts in listed.items()})
    is_tested = lambda clip: bool(listed[clip.name].get("tested"))  # noqa: E731
    tested, more = [c for c in clips if is_tested(c)], [c for c in clips if not is_tested(c)]
    start, lips = new_network(args.ear, args.ear_name, args.head), LipSpace(ParametricHead.from_asset())
    ear = start.audio_net.ear
    speech = [clip for path in args.synthetic for clip in load_synthetic(path, args.most)]
    heldout = load_synthetic(args.heldout, 80) if args.heldout else []
    kept = args.output / "heard.pt"  # for another try with other parameters
    if kept.is_file():
        synthetic, heard = torch.load(kept, weights_only=False)
    else:
        synthetic = heard_clips(speech, ear, LOOK_AHEADS, augmented=1)
        heard = heard_clips(tested, ear) + heard_clips(more, ear, augmented=1)
        args.output.mkdir(parents=True, exist_ok=True)
        torch.save((synthetic, heard), kept)
    print(f"{len(tested)} clips that are scored, {len(more)} others, {len(speech)} of synthetic speech", flush=True)

    def taught_on(persons: set[str]) -> tuple[list[MotionClip], list[MotionClip]]:
        return [c for c in heard if c.person not in persons], [c for c in tested if c.person not in persons]

    start = learn_phonemes(start, synthetic)
    left_out = {name for name in args.leave_out.split(",") if name}
    last = train(*taught_on(left_out), synthetic, start, args.output)
    scores: dict[float | str, list[MotionScores]] = {ahead: [] for ahead in LOOK_AHEADS}
    for fold in range(args.folds):
        unheard = [c for c in tested if fold_of(c.person, args.folds) == fold]
        trainer = train(*taught_on({c.person for c in unheard}), synthetic, start, args.output / f"fold_{fold}")
        for ahead, found in scores.items():
            found.append(score_clips(trainer.averaged, unheard, lips, look_ahead=ahead))
        print(f"fold {fold}: {len(unheard)} clips, {scores['full'][-1].mean()}", flush=True)
    unheard_people = {}
    for ahead, found in scores.items() if args.folds else ():
        joined = MotionScores.joined(found)
        unheard_people[str(ahead)] = {
            "mean": joined.mean(), "opening_interval": joined.interval(), "people": joined.by_person(),
        }  # fmt: skip
        print(f"look-ahead {ahead}: {joined.mean()}, 95 % of the opening {joined.interval()}", flush=True)
    report = last.report() | {
        "left_out": sorted(left_out),
        "shut_on_p_b_m": closures(last.averaged, heldout, last.lips) if heldout else None,
        "unheard_people": unheard_people,
    }
    last.write(args.output, report)


if __name__ == "__main__":
    main()
