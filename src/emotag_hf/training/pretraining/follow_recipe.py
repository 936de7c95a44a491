"""Teaches the motion networks of a recipe: phonemes first, then people, once for everybody and once for each fold.

In: a `Recipe`, an output folder. Out: the files of `Pretrainer` in it, in `speech/` (after the first part) and in
`fold_0/` ...; `lags.json`, those of the tested clips; what the ear heard is kept in `heard/`. Interrupted, the same
call goes on where it was.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tqdm.auto import tqdm

from ...models.configuration_emotag import EmoTaGMotionConfig
from ...models.ear_asset import ear_path, ear_sha256
from ...models.modeling_emotag import EmoTaGModel
from ...models.modeling_head import ParametricHead
from ...models.modeling_motion import GatedResidualMotionNetwork
from ...utils.torch_threads import one_torch_thread
from .hearing import heard_clips
from .lip_space import LipSpace
from .motion_data import MotionClip, fold_of, load_synthetic, load_tracked
from .motion_scores import MotionScores, closures, restore_opening, restore_spread, score_clips
from .pretrain import REPORT, Pretrainer, load_motion
from .pretrain_arguments import PretrainArguments
from .recipe import Recipe

LOOK_AHEADS = ("full", 0.16)  # with which networks are scored, and synthetic speech is heard
_RECIPE, LAGS = "recipe.toml", "lags.json"
# Parts that do not depend on how sound is heard; they start from those of another network.
_KEPT = ("expr_net", "id_net", "emotion_decoder", "mouth_triplane", "emotion_encoder", "gate")
_SIZES = ("hidden_dim", "listener_dim", "mouth_code_dim", "triplane_dim", "triplane_resolution", "dropout")


def new_network(recipe: Recipe) -> GatedResidualMotionNetwork:
    """A network that hears with the recipe's ear; what does not hear comes from its `start`, the first layers of the
    Audio Net from its `head`."""
    old = EmoTaGModel.from_pretrained(recipe.start).motion
    sizes = {key: getattr(old.config, key) for key in _SIZES}
    sizes |= {} if recipe.dropout is None else {"dropout": recipe.dropout}
    config = EmoTaGMotionConfig(
        frontend="whisper_blocks",
        audio_encoder=recipe.ear,
        audio_encoder_sha256=ear_sha256(ear_path(recipe.ear)),
        num_layers=1,
        phone_dim=recipe.phone_dim,
        **sizes,
    )
    torch.manual_seed(0)
    network = GatedResidualMotionNetwork(config)
    config.audio_encoder = recipe.ear_name or recipe.ear
    with torch.no_grad():
        for name in (*_KEPT, "listener"):
            if getattr(old, name) is not None:
                getattr(network, name).load_state_dict(getattr(old, name).state_dict())
        for part in (network.emotion_encoder, network.gate):
            part[0].weight[:, : config.hidden_dim] = 0  # the audio feature, which means something else now
        taught = load_file(recipe.head) if recipe.head else {}
        nets = [network.audio_net]
        if config.phone_dim == config.hidden_dim:  # what tells lips is a good start to tell phonemes
            nets.append(network.audio_net.phones)
        for net in nets:
            for part, prefix in ((net.norm, "norm."), (net.input, "input."), (net.past.conv, "past.")):
                if found := {k.removeprefix(prefix): v for k, v in taught.items() if k.startswith(prefix)}:
                    part.load_state_dict(found)
    return network


def follow(recipe: Recipe, output: Path, show: bool = True) -> dict[str, Any]:
    """Teaches everything that the recipe asks for; returns the report.

    Raises:
        ValueError: the folder holds the result of another recipe, or the recipe's files do not fit.
    """
    output.mkdir(parents=True, exist_ok=True)
    mine = output / _RECIPE
    if mine.is_file() and mine.read_text(encoding="utf-8") != recipe.source:
        raise ValueError(f"output: {output} holds what another recipe taught ({mine}); name another folder.")
    mine.write_text(recipe.source, encoding="utf-8")
    with one_torch_thread():
        return _Following(recipe, output, show).run()


class _Following:
    """One call of `follow`."""

    def __init__(self, recipe: Recipe, output: Path, show: bool):
        self.recipe, self.output, self.show = recipe, output, show
        facts = recipe.clips
        persons = {name: fact.person for name, fact in facts.items()}
        clips = load_tracked(recipe.talkers, persons, {name: fact.lag for name, fact in facts.items()})
        self.tested = [clip for clip in clips if facts[clip.name].tested]
        self.teaching = [clip for clip in clips if facts[clip.name].teaches]
        if unknown := recipe.leave_out - {clip.person for clip in clips}:
            raise ValueError(f"leave_out: expected persons of the clips, got {', '.join(sorted(unknown))}.")
        if not {clip.person for clip in self.teaching} - recipe.leave_out:
            raise ValueError("clips: expected some that teach; none is left.")
        self.lips = LipSpace(ParametricHead.from_asset())
        self.start = new_network(recipe)
        speech = [clip for path in recipe.synthetic for clip in load_synthetic(path, recipe.most_synthetic)]
        ear, kept = self.start.audio_net.ear, output / "heard"
        bar = lambda clips: tqdm(clips, "hearing", unit="clip", disable=not show)  # noqa: E731
        few = {clip.name for clip in self.tested}  # hearing takes longer than training
        self.synthetic = heard_clips(bar(speech), ear, LOOK_AHEADS, augmented=1, kept=kept / "synthetic")
        own = heard_clips(bar([c for c in self.teaching if c.name in few]), ear, kept=kept / "tested")
        more = heard_clips(bar([c for c in self.teaching if c.name not in few]), ear, augmented=1, kept=kept / "more")
        self.heard = own + more

    def run(self) -> dict[str, Any]:
        recipe, folds = self.recipe, range(self.recipe.folds if self.tested else 0)
        people = [{c.person for c in self.tested if fold_of(c.person, recipe.folds) == fold} for fold in folds]
        taught = {clip.person for clip in self.teaching}
        # A fold that would be taught by the same people is scored by the network for everybody.
        own = [fold for fold in folds if taught - people[fold] != taught - recipe.leave_out]
        steps = recipe.speech.steps * bool(self.synthetic) + recipe.lips.steps * (1 + len(own))
        with tqdm(total=steps, desc=self.output.name, unit="step", disable=not self.show) as self.bar:
            start = self._speech()
            last = self._network(start, set(recipe.leave_out), self.output)
            found: dict[float | str, list[MotionScores]] = {ahead: [] for ahead in LOOK_AHEADS}
            for fold in folds:
                network = last
                if fold in own:
                    network = self._network(start, people[fold], self.output / f"fold_{fold}")
                unheard = [clip for clip in self.tested if clip.person in people[fold]]
                for ahead in LOOK_AHEADS if unheard else ():
                    found[ahead].append(score_clips(network, unheard, self.lips, look_ahead=ahead))
        lags = {clip.name: clip.lag for clip in self.tested}
        (self.output / LAGS).write_text(json.dumps(lags, indent=1) + "\n", encoding="utf-8")
        report = json.loads((self.output / REPORT).read_text(encoding="utf-8"))
        report["left_out"] = sorted(recipe.leave_out)
        if recipe.heldout:
            report["shut_on_p_b_m"] = closures(last, load_synthetic(recipe.heldout), self.lips)
        report["unheard_people"] = {str(ahead): _summary(scores) for ahead, scores in found.items() if scores}
        (self.output / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        return report

    def _speech(self) -> GatedResidualMotionNetwork:
        """The network after the first part, on speech with known phonemes: its viseme head, and what that reads."""
        if not self.synthetic:
            return self.start
        self.start.requires_grad_(False)
        self._phones(self.start).requires_grad_(True)
        return self._taught(self.output / "speech", (), self.recipe.speech, self.start, lambda network: None)

    def _phones(self, network: GatedResidualMotionNetwork) -> torch.nn.ModuleList:
        own = network.audio_net.phones
        return torch.nn.ModuleList([network.viseme_head, *([] if own is None else [own])])

    def _network(self, start: GatedResidualMotionNetwork, left_out: set[str], folder: Path):
        """A network that is not taught by `left_out`, with the mean opening and the spread of the others' lips."""
        heard = [clip for clip in self.heard if clip.person not in left_out]
        usual = _longest_of_each(clip for clip in self.teaching if clip.person not in left_out)

        def restore(network: GatedResidualMotionNetwork) -> None:
            # Closures and silence, which only synthetic speech teaches, bias the mean opening downwards.
            restore_spread(network, usual, self.lips)
            restore_opening(network, usual, self.lips)

        network = copy.deepcopy(start)
        if network.audio_net.phones is not None:
            self._phones(network).requires_grad_(False)
        restore_opening(network, usual, self.lips)  # else that alone would take most of the steps
        return self._taught(folder, heard, self.recipe.lips, network, restore)

    def _taught(self, folder: Path, heard: Sequence[MotionClip], arguments: PretrainArguments, network, restore):
        """The network that a training of its own folder gives, made or gone on with if it is not there."""
        if (folder / REPORT).is_file():
            self.bar.update(arguments.steps)
            return self._loaded(folder)
        trainer = Pretrainer(heard, self.synthetic, (), arguments, self.recipe.weights, network)
        trainer.run(folder, resume=True, progress=self._counted, write=False)
        restore(trainer.averaged)
        trainer.write(folder, trainer.report())
        return self._loaded(folder)

    def _counted(self, steps: range) -> Iterator[int]:
        self.bar.update(steps.start)
        for step in steps:
            yield step
            self.bar.update()

    def _loaded(self, folder: Path) -> GatedResidualMotionNetwork:
        return load_motion(folder, self.recipe.ear).requires_grad_(True)


def _longest_of_each(clips: Iterable[MotionClip]) -> list[MotionClip]:
    """One clip of each person: the longest."""
    found: dict[str, MotionClip] = {}
    for clip in clips:
        if clip.person not in found or len(clip) > len(found[clip.person]):
            found[clip.person] = clip
    return list(found.values())


def _summary(parts: Sequence[MotionScores]) -> dict[str, Any]:
    scores = MotionScores.joined(parts)
    return {"mean": scores.mean(), "opening_interval": scores.interval(), "people": scores.by_person()}


__all__ = ["follow", "new_network"]
