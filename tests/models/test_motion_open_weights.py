"""Watches the lips of the embedded `emotag-base-open`: sounds made here, so that no recording is needed."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.signal import lfilter

from emotag_hf.audio.audio_features import log_mel_features
from emotag_hf.constants import EMOTIONS, EXPRESSION_NAMES, OPEN_MODEL
from emotag_hf.models.configuration_emotag import EmoTaGMotionConfig
from emotag_hf.models.modeling_head import ParametricHead
from emotag_hf.models.modeling_motion import GatedResidualMotionNetwork
from emotag_hf.motion.emotion_prototypes import action_unit_prototypes, emotion_to_logits
from emotag_hf.training.pretraining.lip_space import LipSpace
from emotag_hf.utils.asset_paths import ASSETS

RATE = 16_000
LIPS = LipSpace(ParametricHead.from_asset())
VOWELS = {"a": (750, 1150, 2500), "i": (280, 2300, 3000), "u": (310, 750, 2250)}
SCRIPTS = Path(__file__).parents[2] / "conversion_scripts"


@pytest.fixture(scope="module")
def model() -> GatedResidualMotionNetwork:
    folder = ASSETS / OPEN_MODEL
    if not (folder / "model.safetensors").exists():
        pytest.skip(f"the embedded weights are not built yet: {folder} has no model.safetensors")
    config = json.loads((folder / "config.json").read_text())["motion_config"]
    known = {k: v for k, v in config.items() if k in EmoTaGMotionConfig.__dataclass_fields__}
    network = GatedResidualMotionNetwork(EmoTaGMotionConfig(**{k: v for k, v in known.items() if k != "model_type"}))
    weights = load_file(folder / "model.safetensors")
    network.load_state_dict(
        {k.removeprefix("motion."): v.float() for k, v in weights.items() if k.startswith("motion.")}
    )
    return network.eval()


def hum(formants: tuple[int, ...], seconds: float, f0: float, gain: float = 1.0) -> np.ndarray:
    """A steady voice through resonances: what a vowel or an m is."""
    count = int(seconds * RATE)
    phase = np.cumsum(np.full(count, f0 / RATE) * (1 + 0.02 * np.sin(np.arange(count) / 900)))
    source = np.diff(np.floor(phase), prepend=0.0)
    sound = lfilter([1.0], [1.0, -0.95], source)
    for formant in formants:
        radius = np.exp(-np.pi * (60 + 0.04 * formant) / RATE)
        sound = lfilter([1 - radius], [1.0, -2 * radius * np.cos(2 * np.pi * formant / RATE), radius**2], sound)
    fade = np.minimum(1, np.minimum(np.arange(count), np.arange(count)[::-1]) / 160)
    return (sound / (np.abs(sound).max() + 1e-9) * fade * 0.3 * gain).astype(np.float32)


def quiet(seconds: float) -> np.ndarray:
    return (np.random.default_rng(0).standard_normal(int(seconds * RATE)) * 1e-4).astype(np.float32)


@torch.inference_mode()
def lips(model, sound: np.ndarray, **controls) -> dict[str, np.ndarray]:
    """Motion per frame: every direction by name, `jaw` in radians, `opening` and `width` of the lips in mm."""
    output = model(torch.from_numpy(log_mel_features(sound))[None], **controls)
    values = {n: output.expression[0, :, i].numpy() for i, n in enumerate(EXPRESSION_NAMES)}
    points = LIPS.points(output.expression[0], output.jaw_pose[0])
    shown = {"opening": LIPS.opening(points).numpy(), "width": LIPS.width(points).numpy()}
    return {**values, **shown, "jaw": output.jaw_pose[0, :, 0].numpy(), "gate": output.gate[0, :, 0].numpy()}


@pytest.mark.parametrize("f0", [110.0, 210.0])
def test_lips_follow_vowels_and_rest_in_pauses(model, f0):
    """a opens the jaw, u rounds the lips, i spreads them, and in a pause the mouth is nearly shut."""
    pieces = [quiet(0.8)]
    for vowel in "aiu":
        pieces += [hum(VOWELS[vowel], 0.4, f0), quiet(0.6)]
    motion = lips(model, np.concatenate(pieces))
    at = {v: slice(int((0.9 + i) * 25), int((1.1 + i) * 25)) for i, v in enumerate("aiu")}
    mean = {v: {n: values[at[v]].mean() for n, values in motion.items()} for v in "aiu"}
    assert mean["a"]["opening"] > mean["u"]["opening"] + 3 and mean["i"]["opening"] > mean["u"]["opening"] + 1
    assert mean["i"]["width"] > mean["u"]["width"] + 3
    pauses = np.concatenate([np.arange(4, 16), np.arange(35, 41), np.arange(60, 66), np.arange(85, 91)])
    assert motion["opening"][pauses].mean() < 0.33 * mean["a"]["opening"] and motion["opening"][4:16].max() < 2


def test_lips_shut_on_m(model):
    """a-m-a: the jaw comes up and the lips press together on the m, and open again."""
    m = hum((260, 1100, 2300), 0.12, 120.0, gain=0.35)  # a soft murmur with the faint formants of an m
    a = hum(VOWELS["a"], 0.25, 120.0)
    motion = lips(model, np.concatenate([quiet(0.5), a, m, a, m, a, quiet(0.5)]))
    for start in (0.75, 1.12):
        near = slice(int(start * 25) - 1, int((start + 0.12) * 25) + 2)
        open_before = motion["opening"][near.start - 6 : near.start].max()
        assert open_before > 3 and motion["opening"][near].min() < 0.2 * open_before


def test_emotion_control_and_action_units(model):
    """z_e and g by hand, z_e and g from action units, and a neutral face when there is neither."""
    sound = np.concatenate([hum(VOWELS["a"], 0.4, 120.0), quiet(0.4)])
    plain, happy = lips(model, sound), lips(model, sound, emotion_logits=emotion_to_logits("happy")[None], gate=1.0)
    assert plain["gate"].max() < 0.15
    assert (happy["mouthSmile_L"] - plain["mouthSmile_L"]).min() > 0.4
    features = torch.from_numpy(log_mel_features(sound))[None]
    for index, emotion in enumerate(EMOTIONS):
        output = model(features, action_units=action_unit_prototypes()[index][None])
        assert int(output.emotion_logits[0].mean(0).argmax()) == index, emotion
        assert (output.gate.mean() > 0.7) == (emotion != "neutral")
    blink = torch.tensor([[0, 0, 0, 0, 0, 5.0]])
    assert model(features, action_units=blink).gate.mean() < 0.2


@pytest.mark.skipif(not shutil.which("espeak-ng"), reason="espeak-ng is not installed (apt-get install espeak-ng)")
def test_lips_shut_on_p_b_m_of_a_new_voice(model):
    """On a voice that training never heard: the opening follows a table of visemes, and p, b, m shut the lips."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        espeak = importlib.import_module("synthesize_speech.espeak")
        visemes = importlib.import_module("synthesize_speech.visemes")
    finally:
        sys.path.remove(str(SCRIPTS))
    from scipy.signal import resample_poly

    said = espeak.Espeak().say("Papa bought my mother a beautiful piano, but Bob imagined a summer boat.", "en-us+f4")
    sound = resample_poly(said.samples, 320, 441).astype(np.float32)
    targets, _, closed = visemes.targets(said.phonemes, len(sound) / RATE)
    motion = lips(model, sound * 0.5)
    jaw = targets[:, visemes.CHANNELS.index("jaw")]
    assert np.corrcoef(motion["opening"][: len(jaw)], jaw)[0, 1] > 0.5
    shut = [motion["opening"][max(0, t - 1) : t + 2].min() < 1.0 for t in np.flatnonzero(closed)]
    assert len(shut) >= 8 and np.mean(shut) >= 0.8
    assert np.quantile(motion["opening"], 0.9) > 5
