"""Pretrains the motion network on many people (METHOD 3 to 5), with accelerate, on one process or many.

In: `MotionClip`s, `PretrainArguments`, optionally a network to start from. Out: a folder with `motion.safetensors`,
`motion_config.json` and `report.json`, with the facts for a model card. The data order depends on seed and step only,
so that an interrupted training resumes exactly, and two processes take the same steps as one with the same batch.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...audio.audio_features import FEATURE_DIM
from ...constants import OPEN_MODEL
from ...models.configuration_emotag import EmoTaGMotionConfig
from ...models.ear import MAX_AHEAD, seconds_ahead
from ...models.modeling_emotag import EmoTaGModel
from ...models.modeling_head import ParametricHead
from ...models.modeling_motion import GatedResidualMotionNetwork
from ...utils.import_utils import require_package
from ..checkpoint import load_state, save_state
from .augmentation import augment
from .lip_space import LipSpace
from .motion_data import AHEAD_S, MotionBatch, MotionBatches, MotionClip, played
from .motion_losses import MotionWeights, motion_terms, phoneme_terms
from .motion_scores import score_clips
from .pretrain_arguments import PretrainArguments

logger = logging.getLogger(__name__)

WEIGHTS, CONFIG, REPORT, STATE = "motion.safetensors", "motion_config.json", "report.json", "state.safetensors"
_WARM_UP = 100  # warm-up steps of the learning rate
# One network serves every look-ahead, so each step hears with another one, in seconds.
_LOOK_AHEADS = (0.1, 0.16, 0.16, 0.2, 0.4, 0.4, 0.7, "full", "full")
_CURRICULUM = 0.1  # share of the steps over which the weight of the driven motion rises (METHOD 5)


class Pretrainer:
    """Pretrains the motion network on many people; call `run`.

    Args:
        real, synthetic: training data. validation: recordings of other people.
        arguments: parameters. weights: of the loss terms.
        network: network to start from; None makes a new one of `config`.
        accelerator: accelerate's; None makes one on the CPU.

    Raises:
        ValueError: a person is in both training and validation; a batch size that the processes cannot share.
        ImportError: accelerate is not installed.
    """

    def __init__(
        self,
        real: Sequence[MotionClip],
        synthetic: Sequence[MotionClip] = (),
        validation: Sequence[MotionClip] = (),
        arguments: PretrainArguments | None = None,
        weights: MotionWeights | None = None,
        network: GatedResidualMotionNetwork | None = None,
        config: EmoTaGMotionConfig | None = None,
        head: ParametricHead | None = None,
        accelerator: Any = None,
    ) -> None:
        accelerate = require_package("accelerate", extra="train")
        self.arguments, self.weights = arguments or PretrainArguments(), weights or MotionWeights()
        args = self.arguments
        if both := {c.person for c in real} & {c.person for c in validation}:
            raise ValueError(f"validation: expected other people than those trained on, got {', '.join(sorted(both))}.")
        self.accelerator = accelerator or accelerate.Accelerator()
        world = self.accelerator.num_processes
        if args.batch_size % world:
            raise ValueError(f"batch_size: expected a multiple of the {world} processes, got {args.batch_size}.")
        speeds = (1 - args.stretch, 1 + args.stretch) if args.stretch else ()
        heard = [*real, *(played(clip, speed) for clip in real for speed in speeds)]
        self.validation = list(validation)
        self.real, self.num_synthetic = list(real), len(synthetic)
        torch.manual_seed(args.seed)  # for a new network's weights
        started = network is not None
        network = network or GatedResidualMotionNetwork(config or EmoTaGMotionConfig())
        self.config = network.config
        ahead = AHEAD_S
        if self.config.frontend == "whisper_blocks":  # what was heard before has its look-ahead in it
            rows = {clip.sound.shape[-1] for clip in (*heard, *synthetic)}
            ahead = seconds_ahead(MAX_AHEAD) if FEATURE_DIM in rows else 0.0
        self.batches = MotionBatches(
            heard, synthetic, args.batch_size, args.window, args.synthetic_share, args.seed, ahead
        )
        self.averaged = copy.deepcopy(network).eval().requires_grad_(False).to(self.accelerator.device)
        self.lips = LipSpace(head or ParametricHead.from_asset())
        # Nothing is rendered here, so the tri-plane gets no gradient, for which DDP would wait. The emotions' faces
        # stay the FACS prototypes: few people would overfit them, and weight decay would weaken them.
        network.mouth_triplane.requires_grad_(False)
        network.emotion_decoder.requires_grad_(False)
        if network.listener is not None:  # trained separately by conversion_scripts/train_voice_emotion
            network.listener.requires_grad_(False)
        identity = {id(p) for p in network.id_net.parameters()}
        trunk = {id(p) for p in network.audio_net.parameters()}
        last = {id(p) for p in network.base_motion.parameters()}
        rest = [p for p in network.parameters() if p.requires_grad and id(p) not in identity | trunk | last]
        slower = args.trunk_rate if started else 1.0
        groups = [
            {"params": rest, "weight_decay": args.weight_decay, "factor": 1.0},
            {"params": list(network.audio_net.parameters()), "weight_decay": args.weight_decay, "factor": slower},
            {
                "params": list(network.base_motion.parameters()),
                "weight_decay": args.weight_decay,
                "factor": args.last_rate if started else 1.0,
            },
            {"params": list(network.id_net.parameters()), "weight_decay": args.id_decay, "factor": 1.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=args.learning_rate)
        self.step_module = _Step(network, self.lips, self.weights)
        self.model, self.optimizer = self.accelerator.prepare(self.step_module, optimizer)
        self.network = network
        self.step = 0
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Any] = {"step": 0, "score": -math.inf, "weights": None}
        self.seconds = 0.0

    # --- the loop ---------------------------------------------------------------------------------------------------

    def run(
        self,
        folder: str | os.PathLike | None = None,
        resume: bool = False,
        progress: Callable[[Any], Any] = iter,
        write: bool = True,
    ) -> dict[str, Any]:
        """Trains to the end, or until validation stops improving; returns the report.

        Args:
            folder: folder for weights, report and checkpoint; None writes nothing.
            resume: continues from the checkpoint in `folder`, if there is one.
            progress: wraps the iterable of steps, such as `tqdm`.
            write: also writes the result; without it only the checkpoint.
        """
        args = self.arguments
        folder = None if folder is None else Path(folder)
        if folder is not None and self.accelerator.is_main_process:
            folder.mkdir(parents=True, exist_ok=True)
        if resume and folder is not None and (folder / STATE).is_file():
            self.load_state_dict(load_state(folder / STATE))
        began, before = time.perf_counter(), self.seconds
        for _ in progress(range(self.step, args.steps)):
            terms = self.take_step()
            self.seconds = before + time.perf_counter() - began
            last = self.step == args.steps
            if self.step % args.check_every == 0 or last:
                self._check(terms)
            if folder is not None and self.accelerator.is_main_process and (self.step % args.save_every == 0 or last):
                save_state(folder / STATE, self.state_dict())
            if self._has_saturated():
                break
        report = self.report()
        if folder is not None and write and self.accelerator.is_main_process:
            self.write(folder, report)
        self.accelerator.wait_for_everyone()
        return report

    def take_step(self) -> dict[str, float]:
        """One step; returns the terms of the loss."""
        args = self.arguments
        batch, known, driven = self.load(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate() * group["factor"]
        self.model.train()
        index = self.accelerator.process_index
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed((args.seed * 1_000_003 + self.step) * 64 + index)  # of dropout
            terms = self.model(batch, driven, known, self._look_ahead())
        loss = sum(terms.values())
        self.optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        keep = min(args.ema, self.step / (self.step + 10))
        with torch.no_grad():
            for mean, now in zip(self.averaged.parameters(), self.network.parameters(), strict=True):
                mean.lerp_(now, 1 - keep)
        return {name: value.item() for name, value in terms.items()} | {"loss": loss.item()}

    def load(self, step: int) -> tuple[MotionBatch, Tensor, float]:
        """This process's share of a step's batch, which windows have an identity, and the progress of the
        curriculum."""
        args, rank = self.arguments, self.accelerator.process_index
        share = args.batch_size // self.accelerator.num_processes
        first = rank * share
        batch = self.batches.batch(step, first, first + share)
        known = torch.zeros(share, dtype=torch.bool)
        for row in range(share):
            rng = np.random.default_rng([args.seed, step, first + row, 1])
            known[row] = bool(rng.random() < args.told)
            if rng.random() < args.without_units:
                batch.units[row] = 0
            if batch.sound.shape[-1] == FEATURE_DIM and rng.random() < args.augment:
                batch.sound[row] = augment(batch.sound[row : row + 1], rng)[0]
        device = self.accelerator.device
        batch = MotionBatch(**{f.name: getattr(batch, f.name).to(device) for f in fields(batch)})
        return batch, known.to(device), min(1.0, step / max(1.0, _CURRICULUM * args.steps))

    def _look_ahead(self) -> float | str:
        rng = np.random.default_rng([self.arguments.seed, self.step, 2])
        return _LOOK_AHEADS[int(rng.integers(len(_LOOK_AHEADS)))]

    def _rate(self) -> float:
        args = self.arguments
        warm = min(1.0, (self.step + 1) / _WARM_UP)
        return args.learning_rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * self.step / args.steps)))

    # --- judging ----------------------------------------------------------------------------------------------------

    def _check(self, terms: dict[str, float]) -> None:
        row = {"step": self.step, "seconds": round(self.seconds, 1), **{k: round(v, 4) for k, v in terms.items()}}
        if self.validation:
            found = score_clips(self.averaged, self.validation, self.lips)
            row |= {f"validation_{name}": round(value, 4) for name, value in found.mean().items()}
            score = row["validation_opening"] + 0.5 * row["validation_width"]
            if score > self.best["score"]:
                self.best = {"step": self.step, "score": score, "weights": copy.deepcopy(self.averaged.state_dict())}
        self.history.append(row)
        logger.info("%s", row)

    def _has_saturated(self) -> bool:
        late = self.step - self.best["step"]
        return bool(self.validation and self.arguments.patience and self.best["weights"] is not None
                    and late >= self.arguments.patience * self.arguments.check_every)  # fmt: skip

    def result(self) -> GatedResidualMotionNetwork:
        """The averaged network, of the best step on the validation data if there is any."""
        network = copy.deepcopy(self.averaged)
        if self.best["weights"] is not None:
            network.load_state_dict(self.best["weights"])
        return network

    def report(self) -> dict[str, Any]:
        """The facts for a model card: data, parameters, versions, scores."""
        import transformers

        from ...rights.provenance import package_version

        return {
            "arguments": asdict(self.arguments),
            "weights": asdict(self.weights),
            "persons": self.batches.names,
            "clips": sorted(clip.name for clip in self.real),
            "seconds_of_video": round(sum(len(c) for c in self.real) / 25, 1),
            "synthetic_recordings": self.num_synthetic,
            "validation_persons": sorted({clip.person for clip in self.validation}),
            "steps": self.step,
            "best_step": self.best["step"] if self.best["weights"] is not None else self.step,
            "seconds": round(self.seconds, 1),
            "processes": self.accelerator.num_processes,
            "versions": {
                "emotag_hf": package_version(),
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
            "history": self.history,
        }

    def write(self, folder: Path, report: dict[str, Any]) -> None:
        """Writes weights, config and report, each atomically."""
        weights = {k: v.detach().float().cpu().contiguous() for k, v in self.result().state_dict().items()}
        save_file(weights, folder / (WEIGHTS + ".new"))
        os.replace(folder / (WEIGHTS + ".new"), folder / WEIGHTS)
        self.config.to_json_file(folder / CONFIG)
        (folder / (REPORT + ".new")).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        os.replace(folder / (REPORT + ".new"), folder / REPORT)

    # --- state ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All state; the data order depends on the step only."""
        optimizer = self.optimizer.state_dict()["state"]
        return {
            "step": self.step,
            "seconds": self.seconds,
            "network": dict(self.network.state_dict()),
            "averaged": dict(self.averaged.state_dict()),
            "optimizer": {str(key): dict(value) for key, value in optimizer.items()},
            "history": self.history,
            "best": {"step": self.best["step"], "score": self.best["score"],
                     "weights": None if self.best["weights"] is None else dict(self.best["weights"])},
            "arguments": asdict(self.arguments),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the result of `state_dict`.

        Raises:
            ValueError: the state belongs to other arguments.
        """
        mine = asdict(self.arguments)
        if differ := sorted(k for k in mine if state["arguments"].get(k) != mine[k]):
            raise ValueError(
                f"resume: expected the arguments of the stopped training, got another {', '.join(differ)}."
            )
        self.network.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        current = self.optimizer.state_dict()
        current["state"] = {int(key): value for key, value in state["optimizer"].items()}
        self.optimizer.load_state_dict(current)
        self.step, self.seconds, self.history = state["step"], state["seconds"], state["history"]
        self.best = dict(state["best"])


class _Step(torch.nn.Module):
    """Forward pass and loss in one module, so that DDP sees every use of the parameters."""

    def __init__(self, network: GatedResidualMotionNetwork, lips: LipSpace, weights: MotionWeights):
        super().__init__()
        self.network, self.lips, self.weights = network, lips, weights

    def forward(
        self, batch: MotionBatch, driven: float, known: Tensor, look_ahead: float | str | None = None
    ) -> dict[str, Tensor]:
        if not self.network.base_motion.weight.requires_grad:  # only phonemes are learned
            return phoneme_terms(self.network, batch, self.weights, look_ahead)
        generator = torch.Generator().manual_seed(torch.initial_seed() % 2**62)
        return motion_terms(self.network, batch, self.lips, self.weights, driven, known, generator, look_ahead)


def load_motion(folder: str | os.PathLike | None = None, ear: str | None = None) -> GatedResidualMotionNetwork:
    """Loads the network that `run` wrote; None is the embedded open one. `ear`: where its ear is, if not where its
    config says.

    Raises:
        FileNotFoundError: the folder has none.
    """
    if folder is None:
        return EmoTaGModel.from_pretrained(OPEN_MODEL).motion
    folder = Path(folder)
    if not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(f"folder: expected {WEIGHTS} and {CONFIG} of a pretraining in {folder}.")
    config = EmoTaGMotionConfig.from_json_file(folder / CONFIG)
    named = config.audio_encoder
    config.audio_encoder = ear or named
    network = GatedResidualMotionNetwork(config)
    config.audio_encoder = named
    network.load_state_dict(load_file(folder / WEIGHTS))
    return network.eval()


__all__ = ["Pretrainer", "load_motion"]
