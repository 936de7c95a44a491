"""Trains a motion network on speech with known phoneme times; the Base learns visemes, EMO Encoder and Gate learn to
read action units.

    python conversion_scripts/synthesize_speech/generate.py --hours 5 --out DATA
    python conversion_scripts/train_motion_open.py --data DATA --out OUT

gives the weights of `emotag-base-open`, from synthetic speech alone;

    python conversion_scripts/train_motion_open.py --data DATA --more NATURAL/train.npz HUMAN/train.npz \
        --transcribed transcribed.npz --start OUT --steps 4000 --learning-rate 1e-3 --out VOICES

gives the start of `train_motion_base.py`, also trained on voices made from recordings and on recordings.

In: `train.npz` and `heldout.npz`. Out: `OUT/motion.safetensors` (the state dict of GatedResidualMotionNetwork,
float32), `OUT/motion_config.json` and `OUT/report.json` (held-out voices). One CPU thread, 25 minutes for 3,500 steps;
the same seed, data and machine give the same weights.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from synthesize_speech.visemes import CHANNELS, DIRECTIONS, FPS
from torch.nn import functional as F

from emotag_hf.audio.audio_features import FRAME_RATE
from emotag_hf.constants import EMOTIONS, EXPRESSION_NAMES
from emotag_hf.models.configuration_emotag import EmoTaGMotionConfig
from emotag_hf.models.modeling_motion import GatedResidualMotionNetwork
from emotag_hf.motion.emotion_prototypes import action_unit_prototypes
from emotag_hf.training.pretraining.augmentation import augment
from emotag_hf.training.pretraining.pretrain import load_motion

JAW = len(EXPRESSION_NAMES)  # index of jaw_pose[0] in the face motion
PER_FRAME = FRAME_RATE // FPS
WARM_UP_FRAMES = 12  # a crop starts without its past: no loss there
AHEAD = 16  # feature frames after a crop, so that its end has its look-ahead


@dataclass
class Options:
    """Every number of the training."""

    steps: int = 3500
    batch: int = 12
    crop: int = 160  # video frames
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.02
    ema: float = 0.998
    seed: int = 0
    velocity: float = 0.6
    visemes: float = 0.4
    variance: float = 0.5
    largest_gain: float = 1.6  # by which the spread of a channel may be restored at the end
    closure: float = 0.5
    emotion: float = 0.2
    transcribed: float = 0.17  # of the recordings of a batch, where there are any
    hidden_dim: int = 192
    num_layers: int = 6
    checkpoint_every: int = 500


def channel_columns() -> list[list[int]]:
    """For each channel of the targets, the columns of the face motion it drives."""
    names = [("jaw",) if c == "jaw" else DIRECTIONS[c] for c in CHANNELS]
    return [[JAW] if n == ("jaw",) else [EXPRESSION_NAMES.index(d) for d in n] for n in names]


def articulation(output) -> tuple[torch.Tensor, torch.Tensor]:
    """The face motion `[B, T, 53]` of a GRMNOutput, and the same as channels `[B, T, C]`."""
    face = torch.cat([output.expression, output.jaw_pose], -1)
    return face, torch.stack([face[..., c].mean(-1) for c in channel_columns()], -1)


def mouth_code_targets(targets: torch.Tensor, size: int) -> torch.Tensor:
    """Eight summaries of the articulation as the mouth code, so that the tri-plane later learns on a useful basis."""
    c = {name: targets[..., i] for i, name in enumerate(CHANNELS)}
    code = torch.stack(
        [
            c["jaw"] / 0.22, c["stretch"] + c["smile"], c["funnel"] + c["pucker"], 2 * c["press"], c["rollLower"],
            c["tongueUp"], c["tongueOut"], c["lowerDown"] + c["upperUp"],
        ], -1,
    )  # fmt: skip
    return F.pad(code, (0, max(0, size - code.shape[-1])))[..., :size]


def lip_gap(values: torch.Tensor) -> torch.Tensor:
    """Inner-lip opening from channels `[..., C]`, in radians of jaw (80 mm each), as each acts on the open head."""
    c = {name: values[..., i] for i, name in enumerate(CHANNELS)}
    lips = 0.08 * (c["lowerDown"] + c["upperUp"]) + 0.16 * c["funnel"] - 0.46 * c["close"]
    return (c["jaw"] + lips).clamp(min=0)


class Clips:
    """The data set in memory, of one file or more; random crops that never leave a clip."""

    def __init__(self, *paths: Path):
        names = ("features", "targets", "visemes", "closures", "lengths")
        files = [np.load(path) for path in paths]
        data = {name: np.concatenate([file[name] for file in files]) for name in names}
        self.features = torch.from_numpy(data["features"])
        self.targets = torch.from_numpy(data["targets"])
        self.visemes = torch.from_numpy(data["visemes"])
        self.closures = torch.from_numpy(data["closures"])
        self.lengths = data["lengths"].tolist()
        self.starts = np.concatenate([[0], np.cumsum(data["lengths"])]).tolist()

    def clip(self, index: int):
        """Features, targets, visemes and closures of one clip."""
        a, b = self.starts[index], self.starts[index + 1]
        return (
            self.features[a * PER_FRAME : b * PER_FRAME].float(), self.targets[a:b].float(),
            self.visemes[a:b].long(), self.closures[a:b],
        )  # fmt: skip

    def crops(self, rng: np.random.Generator, batch: int, frames: int):
        """`features [B, 4 frames + AHEAD, 82]`, `targets`, `visemes`, `closures`, `valid`, the latter `[B, frames]`."""
        features = torch.zeros(batch, frames * PER_FRAME + AHEAD, self.features.shape[1])
        targets, visemes = torch.zeros(batch, frames, len(CHANNELS)), torch.zeros(batch, frames, dtype=torch.long)
        closures, valid = torch.zeros(batch, frames, dtype=torch.bool), torch.zeros(batch, frames, dtype=torch.bool)
        for row in range(batch):
            x, y, v, c = self.clip(int(rng.integers(len(self.lengths))))
            start = int(rng.integers(0, max(1, len(y) - frames // 2))) if rng.random() < 0.8 else 0
            count = min(frames, len(y) - start)
            piece = x[start * PER_FRAME : (start + frames) * PER_FRAME + AHEAD]
            features[row, : len(piece)] = piece
            for out, values in ((targets, y), (visemes, v), (closures, c)):
                out[row, :count] = values[start : start + count]
            valid[row, WARM_UP_FRAMES if start else 0 : count] = True
        return features, targets, visemes, closures, valid


def losses(network, features, targets, visemes, closures, valid, scale, weight, options: Options):
    """The terms of the loss, by name."""
    audio = network.audio_net(features)[:, : targets.shape[1]]
    output = network._decode(audio, 0, None, None, None, 0.0)  # gate 0: the Base alone
    face, predicted = articulation(output)
    columns = channel_columns()
    driven = sorted({i for c in columns for i in c})
    rest = [i for i in range(face.shape[-1]) if i not in driven]
    uneven = torch.stack([face[..., c[0]] - face[..., c[-1]] for c in columns], -1)

    mask = valid[..., None].float()
    count = mask.sum() * len(CHANNELS)
    error = (predicted - targets) / scale
    # A closure lasts one or two frames among fifty: it weighs more, on the channels that part the lips.
    emphasis = 1 + options.closure * closures[..., None].float()
    result = {"motion": (F.smooth_l1_loss(error, torch.zeros_like(error), reduction="none") * weight * emphasis * mask)}
    result["motion"] = result["motion"].sum() / count
    steps = ((predicted[:, 1:] - predicted[:, :-1]) - (targets[:, 1:] - targets[:, :-1])) / scale
    both = mask[:, 1:] * mask[:, :-1]
    result["velocity"] = options.velocity * (steps.abs().clamp(max=4) * weight * both).sum() / count
    spread = _spread(predicted / scale, mask) - _spread(targets / scale, mask)
    result["variance"] = options.variance * spread.abs().mean()
    gap = lip_gap(predicted) / 0.2
    shut = (closures & valid).float()
    result["closure"] = options.closure * (gap * shut).sum() / shut.sum().clamp(min=1)
    logits = output.viseme_logits
    result["visemes"] = options.visemes * F.cross_entropy(logits[valid], visemes[valid], label_smoothing=0.05)
    result["rest"] = (face[..., rest] ** 2).mean() + 10 * (uneven**2).mean()
    code = mouth_code_targets(targets, output.mouth_code.shape[-1])
    result["mouth_code"] = 0.2 * ((output.mouth_code - code) ** 2 * mask).mean()
    result["emotion"] = options.emotion * emotion_loss(network, audio.detach())
    return result


def _spread(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Standard deviation over time per sequence and channel `[B, C]`."""
    count = mask.sum(1).clamp(min=1)
    mean = (values * mask).sum(1) / count
    return torch.sqrt(((values - mean[:, None]) ** 2 * mask).sum(1) / count + 1e-4)


def emotion_loss(network, audio: torch.Tensor) -> torch.Tensor:
    """EMO Encoder and Gate on made-up action units: prototypes at random intensity, with noise, blinks and stray units.

    METHOD 4 with the prototype in the teacher's place: cross-entropy on z_e, |g - e| on the gate.
    """
    audio = audio[:, :: max(1, audio.shape[1] // 16)]
    batch, frames, _ = audio.shape
    neutral = EMOTIONS.index("neutral")
    label = torch.randint(len(EMOTIONS), (batch, frames))
    intensity = torch.rand(batch, frames, 1) * (label != neutral)[..., None]
    units = action_unit_prototypes()[label] * intensity * (1 + 0.2 * torch.randn(batch, frames, 1))
    units = units + 0.25 * torch.randn_like(units).abs() * (torch.rand(batch, frames, 1) < 0.7)
    units[..., -1] = 5 * torch.rand(batch, frames) * (torch.rand(batch, frames) < 0.2)
    soft = torch.zeros(batch, frames, len(EMOTIONS)).scatter_(2, label[..., None], intensity.clamp(max=1))
    soft[..., neutral] = 0
    soft[..., neutral] = 1 - soft.sum(-1)
    output = network._decode(audio, 0, units.clamp(0, 5), None, None, None)
    kl = -(soft * output.emotion_logits.log_softmax(-1)).sum(-1).mean()
    return kl + 3 * (output.gate - intensity).abs().mean()


def write(network, folder: Path, config: EmoTaGMotionConfig) -> None:
    """Weights and config, beside and then renamed, so that a reader never meets half a file."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "motion.safetensors.partial"
    save_file({k: v.detach().float().contiguous() for k, v in network.state_dict().items()}, partial)
    os.replace(partial, folder / "motion.safetensors")
    config.to_json_file(folder / "motion_config.json")


@torch.inference_mode()
def restore_spread(network, clips: Clips, options: Options) -> dict[str, float]:
    """Undoes under-articulation: a regression that is unsure moves too little, most on sound unlike its training set.

    Measures each channel's spread on hard (roughened) sound and scales its output row, so that the mouth moves as much
    as the targets do. Rest is zero and stays zero.
    """
    rng = np.random.default_rng(options.seed + 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed + 1)
        features, targets, _, _, valid = clips.crops(rng, 128, options.crop)
        output = network(augment(features, rng), gate=0.0)
    predicted = articulation(output)[1][:, : options.crop]
    gain = (targets[valid].std(0) / predicted[valid].std(0).clamp(min=1e-4)).clamp(1.0, options.largest_gain)
    gain[CHANNELS.index("close")] = gain[CHANNELS.index("jaw")]  # mouthClose answers to the jaw
    for columns, value in zip(channel_columns(), gain.tolist(), strict=True):
        network.base_motion.weight[columns] *= value
        network.base_motion.bias[columns] *= value
    return {f"gain_{n}": round(v, 3) for n, v in zip(CHANNELS, gain.tolist(), strict=True)}


@torch.inference_mode()
def evaluate(network, clips: Clips, limit: int = 80) -> dict[str, float]:
    """On held-out voices: Pearson r per channel, spread, closures, and the opening in silence."""
    network.eval()
    got, wanted, shut, heard = [], [], [], []
    closed_near = closed_at = closures = 0
    reach = float(torch.quantile(lip_gap(clips.targets[:200_000].float()), 0.98))
    for index in range(min(limit, len(clips.lengths))):
        x, y, v, c = clips.clip(index)
        output = network(x[None], gate=0.0)
        p = articulation(output)[1][0]
        gap = lip_gap(p)
        for frame in c.nonzero()[:, 0].tolist():
            closures += 1
            closed_at += bool(gap[frame] < 0.1 * reach)
            closed_near += bool(gap[max(0, frame - 1) : frame + 2].min() < 0.1 * reach)
        got.append(p)
        wanted.append(y)
        shut.append(gap[v == 0])
        heard.append(output.viseme_logits[0].argmax(-1) == v)
    p, y = torch.cat(got), torch.cat(wanted)
    report = {f"r_{n}": float(np.corrcoef(p[:, i], y[:, i])[0, 1]) for i, n in enumerate(CHANNELS)}
    report["r_gap"] = float(np.corrcoef(lip_gap(p), lip_gap(y))[0, 1])
    report["jaw_spread_ratio"] = float(p[:, 0].std() / y[:, 0].std())
    report["closed_at_frame"] = closed_at / max(1, closures)
    report["closed_within_one_frame"] = closed_near / max(1, closures)
    report["gap_in_silence_of_reach"] = float(torch.cat(shut).mean() / reach)
    report["viseme_accuracy"] = float(torch.cat(heard).float().mean())
    return {k: round(v, 3) for k, v in report.items()}


def train(data: Path, out: Path, options: Options, more=(), transcribed: Path | None = None, start=None):
    """Trains and writes to `out`; returns the report on held-out voices.

    Args:
        data: folder of `train.npz` and `heldout.npz`. more: further files as `train.npz`.
        transcribed: a file of `synthesize_speech/align.py`. start: folder of a training to go on from.
    """
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    clips, heldout = Clips(data / "train.npz", *more), Clips(data / "heldout.npz")
    sources = [(clips, options.batch)]
    if transcribed is not None:
        count = round(options.batch * options.transcribed)
        sources = [(clips, options.batch - count), (Clips(transcribed), count)]
    config = EmoTaGMotionConfig(hidden_dim=options.hidden_dim, num_layers=options.num_layers)
    network = load_motion(start) if start else GatedResidualMotionNetwork(config)
    config = network.config
    network.train()
    averaged = copy.deepcopy(network).eval()
    optimiser = torch.optim.AdamW(network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
    scale = clips.targets[:300_000].float().std(0).clamp(min=0.02)
    weight = torch.tensor([3.0 if c == "jaw" else 0.5 if c.startswith("tongue") else 1.0 for c in CHANNELS])
    started, report = time.monotonic(), {}
    for step in range(options.steps):
        warm = min(1.0, (step + 1) / 150)
        rate = options.learning_rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / options.steps)))
        optimiser.param_groups[0]["lr"] = rate
        drawn = [source.crops(rng, count, options.crop) for source, count in sources]
        features, *rest = (torch.cat(parts) for parts in zip(*drawn, strict=True))
        terms = losses(network, augment(features, rng), *rest, scale, weight, options)
        optimiser.zero_grad(set_to_none=True)
        sum(terms.values()).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            keep = min(options.ema, (step + 1) / (step + 20))
            for slow, fast in zip(averaged.parameters(), network.parameters(), strict=True):
                slow.lerp_(fast, 1 - keep)
        if step % 50 == 0:
            line = " ".join(f"{k} {v.item():.3f}" for k, v in terms.items())
            print(f"step {step} {time.monotonic() - started:.0f} s {line}", flush=True)
        if (step + 1) % options.checkpoint_every == 0 or step + 1 == options.steps:
            finished = copy.deepcopy(averaged).eval()
            gains = restore_spread(finished, clips, options)
            report = {"step": step + 1, **evaluate(finished, heldout), **gains}
            write(finished, out, config)
            (out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
            print(json.dumps(report), flush=True)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of generate.py's two files")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--more", type=Path, nargs="*", default=[], help="further files to learn from")
    parser.add_argument("--transcribed", type=Path, help="people whose words are known: a file of align.py")
    parser.add_argument("--start", help="folder of a training to go on from")
    chosen = ("steps", "seed", "batch", "learning_rate", "hidden_dim", "num_layers")
    for name in chosen:
        default = getattr(Options, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    arguments = parser.parse_args()
    options = Options(**{name: getattr(arguments, name) for name in chosen})
    train(arguments.data, arguments.out, options, arguments.more, arguments.transcribed, arguments.start)


if __name__ == "__main__":
    main()
