"""Trains the Voice Listener of the motion network on EMO-DB and talking people.

    python conversion_scripts/train_voice_emotion --emodb EMODB --clips CLIPS --persons splits.json -o OUT \
        --leave-out mead --model src/emotag_hf/assets/emotag-base

In: EMO-DB's recordings (research data: so are the weights), processed clips of people who are taken to be mostly calm.
Out: `OUT/listener.safetensors`, `OUT/report.json` (each speaker and person tested with a listener that was not trained
on them; the listener of `OUT` is trained on all except those left out); with `--model`, `OUT/model`: that model with
this listener. About five minutes on one core.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from scores import agreement, guesses, of_acted, of_talkers
from teach import Lesson, teach, teach_linear
from voices import as_recorded, end_of, excerpt, joined, read_emodb, read_talkers

from emotag_hf import EmoTaGModel
from emotag_hf.constants import EMOTIONS
from emotag_hf.models.configuration_emotag import EmoTaGConfig
from emotag_hf.models.voice_listener import VoiceListener
from emotag_hf.training.pretraining.motion_data import read_persons

JOINED = 160  # recordings made of a speaker's utterances
# What each half of METHOD 4's guidance is worth.
ABLATIONS = {
    "both": {},
    "L_KL alone": {"score": 0.0},
    "L_score alone": {"kl": 0.0},
    "no guidance": {"kl": 0.0, "score": 0.0},
}


# Actors are emotional in five of six recordings, each emotion as often; people who talk are seldom, and then
# glad rather than disgusted. Added to the logits of the finished listener (not of those that are judged on actors):
# Bayes' rule for another prior. Without it ordinary voices in languages that it has not heard had a g of 0.5, and
# looked disgusted.
ORDINARY_GATE = -1.5
ORDINARY = {"happy": 0.7, "fear": -0.7, "disgust": -0.7}


@torch.no_grad()
def expect_ordinary_speech_(listener: VoiceListener) -> VoiceListener:
    """Moves what the listener expects from actors to people who talk."""
    for name, shift in ORDINARY.items():
        listener.out.bias[EMOTIONS.index(name)] += shift
    listener.out.bias[-1] += ORDINARY_GATE
    return listener


def attach(listener: VoiceListener, model: EmoTaGModel) -> EmoTaGModel:
    """The model with this listener in place of its own, if it had one."""
    settings = model.config.to_dict()
    settings["motion_config"]["listener_dim"] = listener.hidden.out_features
    hearing = EmoTaGModel(EmoTaGConfig.from_dict(settings))
    weights = {name: value for name, value in model.state_dict().items() if ".listener." not in name}
    weights |= {f"motion.listener.{name}": value for name, value in listener.state_dict().items()}
    hearing.load_state_dict(weights)
    return hearing.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--emodb", type=Path, required=True, help="folder of EMO-DB's recordings")
    parser.add_argument("--clips", type=Path, required=True, help="folder of processed clips of people who talk")
    parser.add_argument("--persons", type=Path, required=True, help="JSON: person -> clips")
    parser.add_argument("--leave-out", default="", help="beginnings of persons' names, by comma; they are only judged")
    parser.add_argument("--model", help="folder or name of a model to give the listener to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.output.mkdir(parents=True, exist_ok=True)
    left_out = tuple(name for name in args.leave_out.split(",") if name)
    utterances = read_emodb(args.emodb)
    talkers = read_talkers(args.clips, read_persons(args.persons))
    plain = [as_recorded(u) for u in utterances]
    talk = [as_recorded(u) for u in talkers]
    rng = np.random.default_rng(args.seed)
    speakers = defaultdict(list)
    for utterance in utterances:
        speakers[utterance.speaker].append(utterance)
    acted = [joined(own, rng) for own in speakers.values() for _ in range(JOINED)]
    acted += [end_of(h) for h in plain] * 3
    calm = [u for u in talkers if not u.speaker.startswith(left_out)] if left_out else talkers
    excerpts = [excerpt(u, rng) for u in calm for _ in range(max(4, len(u.samples) // 32_000))]
    print(
        f"{len(utterances)} utterances, {len(acted)} recordings of them, {len(excerpts)} excerpts of talk", flush=True
    )

    persons, report = sorted({u.speaker for u in talkers}), {"left_out": left_out}
    lesson = Lesson(seed=args.seed)
    for name, change in ABLATIONS.items():
        read, heard, linear = [], [], []
        for number, speaker in enumerate(sorted(speakers)):
            unheard = set(persons[number :: len(speakers)])
            listener = teach(
                [h for h in acted if h.speaker != speaker],
                [h for h in excerpts if h.speaker not in unheard],
                replace(lesson, **change),
            )
            own = [h for h in plain if h.speaker == speaker]
            read += guesses(listener, own)
            heard += guesses(listener, [h for h in talk if h.speaker in unheard])
            if name == "both":
                weight, bias, center, scale = teach_linear([h for h in plain if h.speaker != speaker])
                linear += [
                    (h.speaker, int(h.labels[-1]), int(((h.statistics[-1] - center) / scale @ weight + bias).argmax()))
                    for h in own
                ]
        report[name] = of_acted(read, args.seed) | {"talk": of_talkers(heard, left_out)}
        if linear:
            report["logistic regression"] = agreement(linear, args.seed)
        print(name, json.dumps({k: v for k, v in report[name].items() if k not in ("talk", "table")}), flush=True)
    listener = teach(acted, excerpts, lesson)
    report["left out, by the last listener"] = of_talkers(
        guesses(listener, [h for h in talk if left_out and h.speaker.startswith(left_out)]), left_out
    )
    expect_ordinary_speech_(listener)
    report["left out, as it goes out"] = of_talkers(
        guesses(listener, [h for h in talk if left_out and h.speaker.startswith(left_out)]), left_out
    )
    save_file({k: v.contiguous() for k, v in listener.state_dict().items()}, args.output / "listener.safetensors")
    (args.output / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if args.model:
        attach(listener, EmoTaGModel.from_pretrained(args.model)).save_pretrained(args.output / "model")


if __name__ == "__main__":
    main()
