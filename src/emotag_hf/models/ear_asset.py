"""The file of an `Ear`: int8 weights in safetensors, shared by many checkpoints and stored in none of them.

In: the name of an embedded ear or a path; an `Ear` to write. Out: an `Ear` in float32; a file of 7 MB. Weights are
rounded to 8 bits with a scale per output channel, which changes hidden states by less than their teacher's own noise;
biases, norms and the small layer that reads the features keep 16 bits or more.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..constants import DEFAULT_EAR
from ..utils.asset_paths import ASSETS
from ..utils.atomic_write import atomic_write
from .ear import DIM, FFN_DIM, NUM_HEADS, PAST, Ear

FORMAT, VERSION = "emotag-ear", "1"
SUFFIX = ".safetensors"
_SCALE = ".scale"
_LEAST_SIZE = 64 * 1024  # smaller tensors are not rounded to 8 bits
_SIZES = {"dim": DIM, "num_heads": NUM_HEADS, "ffn_dim": FFN_DIM, "past": PAST}


def ear_path(name: str) -> Path:
    """The file of an ear: `"ear-base"` and the like are embedded; anything else is a path.

    Raises:
        ValueError: there is no such file.
    """
    path = Path(name)
    if not path.suffix and os.sep not in name:
        path = ASSETS / (name + SUFFIX)
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in ASSETS.glob(f"ear-*{SUFFIX}"))) or "none"
        raise ValueError(
            f"audio_encoder: expected an ear, but there is no file {path}; embedded: {there}. Install the emotag_hf "
            "version that saved this model, or pass the ear's path."
        )
    return path


def load_ear(name: str | None, sha256: str | None = None) -> Ear:
    """Loads an ear, frozen and outside of any `state_dict`.

    Args:
        name: see `ear_path`; None is `"ear-open"`. sha256: of the file that is expected; None takes any.

    Raises:
        ValueError: no file, a damaged one, one of another kind or size, or not the one with that hash.
    """
    name = name or DEFAULT_EAR
    path = ear_path(name)
    found = ear_sha256(path)
    if sha256 not in (None, found):
        raise ValueError(
            f"audio_encoder: this model hears with {name!r} of sha256 {sha256[:12]}..., the one here has "  # type: ignore[index]
            f"{found[:12]}...; install the emotag_hf version that saved it, or pass that ear's path."
        )
    try:
        with safe_open(str(path), framework="pt") as file:
            stored = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
            facts = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"audio_encoder: expected an ear in safetensors format, got {path} ({error}).") from error
    sizes = {key: str(value) for key, value in _SIZES.items()} | {"format": FORMAT, "version": VERSION}
    if wrong := [f"{key} {facts.get(key)}" for key, value in sizes.items() if facts.get(key) != value]:
        raise ValueError(f"audio_encoder: {path} is not an ear of this version: it has {', '.join(wrong)}.")
    with torch.device("cpu"):  # `from_pretrained` builds under the meta device, where nothing can be read
        ear = Ear(int(facts["num_blocks"]))
        try:
            ear.load_state_dict(_restored(stored))
            for part, module in ear.named_modules():
                if (key := f"{part}.weight") + _SCALE in stored:
                    module.use_int8_(stored[key], stored[key + _SCALE])
        except (RuntimeError, KeyError) as error:
            raise ValueError(f"audio_encoder: {path} has other tensors than an ear: {error}") from error
    ear.source = name
    return freeze_(ear)


def refill_ear_(ear: Ear) -> Ear:
    """Fills the buffers again that `from_pretrained` left without values, where they are (CPU instead of meta)."""
    fresh = dict(load_ear(ear.source).named_modules())
    for name, module in ear.named_modules():
        for key, values in fresh[name]._buffers.items():
            lost = module._buffers[key]
            if values is not None and lost is not None:
                device = "cpu" if lost.device.type == "meta" else lost.device
                module.register_buffer(key, values.to(device), persistent=False)
    return ear


def save_ear(ear: Ear, path: str | os.PathLike, facts: dict[str, str] | None = None) -> str:
    """Writes an ear's file and returns its sha256; `facts` (licence, data) become metadata."""
    tensors = {}
    for name, values in ear.state_dict().items():
        values = values.detach().cpu()
        if values.numel() < _LEAST_SIZE or name.startswith("bands"):
            tensors[name] = values.contiguous()
            continue
        scale = values.abs().amax(1).clamp_min(1e-8) / 127
        tensors[name] = (values / scale[:, None]).round().to(torch.int8).contiguous()
        tensors[name + _SCALE] = scale
    metadata = {key: str(value) for key, value in _SIZES.items()} | {"format": FORMAT, "version": VERSION}
    metadata |= {"num_blocks": str(len(ear.blocks))} | (facts or {})
    with atomic_write(path) as partial:
        partial.write_bytes(save(tensors, metadata))
    return ear_sha256(path)


def ear_facts(name: str) -> dict[str, str]:
    """The metadata of an ear's file."""
    with safe_open(str(ear_path(name)), framework="pt") as file:
        return dict(file.metadata() or {})


def ear_sha256(path: str | os.PathLike) -> str:
    """Hash of an ear's file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def freeze_(ear: Ear) -> Ear:
    """Turns the parameters into buffers that no `state_dict` has, in place."""
    for module in ear.modules():
        for name, values in list(module._parameters.items()):
            del module._parameters[name]
            if values is not None:
                module.register_buffer(name, values.detach(), persistent=False)
    return ear.eval()


def _restored(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """Float32 tensors of what a file stores."""
    out = {}
    for name, values in stored.items():
        if name.endswith(_SCALE):
            continue
        values = values.float()
        if name + _SCALE in stored:
            values = values * stored[name + _SCALE][:, None]
        out[name] = values
    return out


__all__ = ["ear_facts", "ear_path", "ear_sha256", "freeze_", "load_ear", "refill_ear_", "save_ear"]
