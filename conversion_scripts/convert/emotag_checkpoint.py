"""Converts a checkpoint of EmoTaG's authors: what can be taken over, and a list of what cannot.

In: the .pth that the released training code writes (its motion network alone, or in a tuple or dictionary with other
things). Out: a model folder and carried_over.json in it. Read with `weights_only=True`: nothing in the file is run.

The Audio Net is the same network in both and is copied; its 16 tokens are one token (20 ms) earlier, so that the
look-ahead is at most 160 ms. The rest is a different network: there the Base gets action units, the emotion is read off
a side head, motion is in FLAME's expression space, and the mouth is a hash grid. The result is a start for training
(`emotag pretrain`), not a working network.
"""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path
from typing import Any

import torch

from emotag_hf import EmoTaGConfig, EmoTaGModel
from emotag_hf.constants import WEIGHTS_NAME

from .errors import ConversionError, check_keys

DIM, FEATURES, TOKENS, LAYERS, FEED_FORWARD = 256, 768, 16, 4, 1024
_POSITIONS = 1024
CARRIED_OVER = "carried_over.json"

_LAYER = {
    "self_attn.in_proj_weight": (3 * DIM, DIM),
    "self_attn.in_proj_bias": (3 * DIM,),
    "self_attn.out_proj.weight": (DIM, DIM),
    "self_attn.out_proj.bias": (DIM,),
    "linear1.weight": (FEED_FORWARD, DIM),
    "linear1.bias": (FEED_FORWARD,),
    "linear2.weight": (DIM, FEED_FORWARD),
    "linear2.bias": (DIM,),
    **{f"norm{i}.{part}": (DIM,) for i in (1, 2) for part in ("weight", "bias")},
}
# theirs -> ours, shape of theirs
CARRIED: dict[str, tuple[str, tuple[int, ...]]] = {
    "audio_proj.weight": ("motion.audio_net.input.weight", (DIM, FEATURES)),
    "audio_proj.bias": ("motion.audio_net.input.bias", (DIM,)),
    "pos_encoder.pe": ("motion.audio_net.position", (1, _POSITIONS, DIM)),
    **{
        f"audio_transformer.layers.{i}.{name}": (f"motion.audio_net.encoder.layers.{i}.{name}", shape)
        for i in range(LAYERS)
        for name, shape in _LAYER.items()
    },
}
# Keys that are known and stay behind: shape (None: any) and why.
_FLAME = (
    "it gives FLAME's expressions and jaw from a feature that mixes sound and action units; our Base hears sound alone"
)
_AU = "action units go into every branch there; here only Residual and Gate see them"
_EMOTION = "a side head there; here z_e lies inside the residual path"
_MOUTH = "a hash grid and per-Gaussian offsets from the sound there; a tri-plane and a mouth code here"
LEFT: dict[str, tuple[tuple[int, ...] | None, str]] = {
    **{f"backbone_net.net.{i}.weight": ((DIM, DIM), _FLAME) for i in range(4)},
    "flame_exp_head.weight": ((50, DIM), _FLAME),
    "flame_exp_head.bias": ((50,), _FLAME),
    "flame_jaw_head.weight": ((3, DIM), _FLAME),
    "flame_jaw_head.bias": ((3,), _FLAME),
    "au_encoder.0.weight": ((64, 6), _AU),
    "au_encoder.0.bias": ((64,), _AU),
    "au_encoder.2.weight": ((64, 64), _AU),
    "au_encoder.2.bias": ((64,), _AU),
    "au_fusion.weight": ((DIM, 64), _AU),
    "au_fusion.bias": ((DIM,), _AU),
    **{f"residual_net.net.{i}.weight": ((DIM, DIM), _EMOTION) for i in range(2)},
    "residual_motion_head.weight": ((53, DIM), _EMOTION),
    "residual_motion_head.bias": ((53,), _EMOTION),
    "gate_net.0.weight": ((128, DIM), _AU),
    "gate_net.0.bias": ((128,), _AU),
    "gate_net.2.weight": ((1, 128), _AU),
    "gate_net.2.bias": ((1,), _AU),
    "emotion_head.weight": ((7, DIM), _EMOTION),
    "emotion_head.bias": ((7,), _EMOTION),
    **{f"encoder_{plane}.{part}": (None, _MOUTH) for plane in ("xy", "yz", "xz") for part in ("embeddings", "offsets")},
    **{f"mouth_mlp.net.{i}.weight": (None, _MOUTH) for i in range(3)},
    "mouth_head.weight": ((10, 64), _MOUTH),
    "mouth_head.bias": ((10,), _MOUTH),
}
# of editions with a code per person or without the gated residual
OPTIONAL = ("individual_codes",) + tuple(
    k for k in LEFT if k.startswith(("residual", "gate_net", "emotion_head", "au_", "encoder_"))
)
_OTHERS = (
    "what else is in the file (Gaussians, optimiser, counters) is not read: they are tied to its FLAME and its step"
)


# what a damaged or hostile file may raise inside the restricted reader
_BROKEN = (
    pickle.UnpicklingError, struct.error, RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError,
    AttributeError, AssertionError, OSError, MemoryError, RecursionError,
)  # fmt: skip


def convert_emotag_checkpoint(path: str | Path, output: str | Path) -> dict[str, Any]:
    """Writes the model folder; returns the content of carried_over.json.

    Raises:
        FileNotFoundError, ConversionError: no such file, or not such a checkpoint.
    """
    output = Path(output)
    if output.exists():
        raise ConversionError(f"output: {output} is there already; name a folder that is not.")
    state = read_motion_net(path)
    model = EmoTaGModel(_config())
    own = model.state_dict()
    for theirs, (ours, _) in CARRIED.items():
        value = state[theirs].float()
        own[ours] = value[0, :TOKENS] if theirs == "pos_encoder.pe" else value
    model.load_state_dict(own)
    kept = {theirs: ours for theirs, (ours, _) in CARRIED.items()}
    report = {
        "carried_over": kept,
        "left_behind": {
            k: LEFT[k][1] if k in LEFT else "codes of the persons it was trained on" for k in state if k not in kept
        },
        "not_read": _OTHERS,
        "not_filled": sorted(k for k in own if k.startswith("motion.") and k not in kept.values()),
    }
    beside = output.with_name(output.name + ".part")
    model.save_pretrained(beside)
    again = EmoTaGModel.from_pretrained(beside).state_dict()
    if not all(torch.equal(again[ours], own[ours]) for ours in kept.values()):
        raise ConversionError(f"output: {WEIGHTS_NAME} came back changed; is the disk full or damaged?")
    (beside / CARRIED_OVER).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    beside.rename(output)
    return report


def read_motion_net(path: str | Path) -> dict[str, torch.Tensor]:
    """The motion network's tensors, checked by name and shape."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint: expected the .pth of an EmoTaG training, but there is no file {path}.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except _BROKEN as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ConversionError(
            f"checkpoint: {path.name} is not a checkpoint that can be read without running it ({reason})."
        ) from None
    state = _find(content)
    if state is None:
        raise ConversionError(
            f"checkpoint: no motion network in {path.name}; expected tensors such as audio_proj.weight and "
            "flame_exp_head.weight by name, alone or in a tuple or dictionary."
        )
    required = (set(CARRIED) | set(LEFT)) - set(OPTIONAL)
    check_keys(state, required, OPTIONAL, f"checkpoint: {path.name}")
    shapes = {k: shape for k, (_, shape) in CARRIED.items()} | {k: shape for k, (shape, _) in LEFT.items()}
    for name, value in state.items():
        wanted = shapes.get(name)
        if not isinstance(value, torch.Tensor) or (wanted is not None and tuple(value.shape) != wanted):
            got = list(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
            raise ConversionError(f"checkpoint: expected {name} of shape {list(wanted or ())}, got {got}.")
        if not bool(torch.isfinite(value.float()).all()):
            raise ConversionError(f"checkpoint: expected finite numbers in {name}, got NaN or infinity.")
    return state


def _find(content: Any, depth: int = 0) -> dict[str, Any] | None:
    if isinstance(content, dict) and "audio_proj.weight" in content:
        return dict(content)
    if depth > 2 or not isinstance(content, dict | tuple | list):
        return None
    parts = content.values() if isinstance(content, dict) else content
    return next((found for part in parts if (found := _find(part, depth + 1)) is not None), None)


def _config() -> EmoTaGConfig:
    motion = {
        "frontend": "transformers",
        "audio_model": "facebook/wav2vec2-base-960h",
        "audio_feature_dim": FEATURES,
        "audio_window": TOKENS,
        "hidden_dim": DIM,
        "num_layers": LAYERS,
        "num_attention_heads": 8,
        "intermediate_dim": FEED_FORWARD,
        "audio_activation": "relu",
    }
    return EmoTaGConfig(motion_config=motion, weights_license="as the authors' checkpoint")
