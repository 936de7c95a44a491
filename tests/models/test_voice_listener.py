"""Watches the Voice Listener: what it hears, that it starts neutral and never jumps; streaming equals offline."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from emotag_hf.audio.audio_features import LogMelStream, log_mel_features
from emotag_hf.constants import EMOTIONS
from emotag_hf.models.configuration_emotag import EmoTaGMotionConfig
from emotag_hf.models.modeling_motion import GatedResidualMotionNetwork
from emotag_hf.models.voice_listener import NUM_STATISTICS, REACTION, VoiceListener

NEUTRAL = EMOTIONS.index("neutral")
SMALL = dict(hidden_dim=16, num_layers=2, triplane_resolution=4)


def network(scramble: float = 0.1, **settings) -> GatedResidualMotionNetwork:
    torch.manual_seed(0)
    model = GatedResidualMotionNetwork(EmoTaGMotionConfig(**{**SMALL, "listener_dim": 8, **settings})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * scramble)
    return model


def voice(seconds: float, f0: float = 130.0, swing: float = 0.1, seed: int = 0) -> np.ndarray:
    """Syllables of a buzz whose pitch goes up and down by `swing`, and a little noise."""
    time = np.arange(int(seconds * 16_000)) / 16_000
    phase = 2 * np.pi * np.cumsum(f0 * np.exp(swing * np.sin(2 * np.pi * 1.1 * time))) / 16_000
    buzz = sum(np.sin(k * phase + k) / k for k in range(1, 15)) * np.clip(np.sin(2 * np.pi * 2.3 * time) * 3, 0.05, 1)
    return (buzz * 0.1 + np.random.default_rng(seed).normal(0, 1e-3, len(time))).astype(np.float32)


def tensor(features: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(features)[None]


@torch.inference_mode()
def statistics(samples: np.ndarray) -> torch.Tensor:
    """`[T, S]`."""
    listener = VoiceListener(EmoTaGMotionConfig(listener_dim=1))
    features = log_mel_features(samples)
    features = np.pad(features, ((0, -len(features) % 4), (0, 0)))
    found, trust = listener.statistics(tensor(features), listener.init_state())
    assert found.shape == trust.shape == (1, len(features) // 4, NUM_STATISTICS)
    assert found.isfinite().all() and trust.min() >= 0 and trust.max() < 1
    return found[0]


@torch.inference_mode()
@pytest.mark.parametrize("look_ahead", ["full", 0.06])
@pytest.mark.parametrize("count", [48_123, 160])
def test_twenty_millisecond_chunks_equal_offline(look_ahead, count):
    """z_e and g of a stream with a listener are those of the whole recording, in chunks that fill no frame as well."""
    model, samples = network(), voice(count / 16_000)
    whole = model(tensor(log_mel_features(samples)), look_ahead=look_ahead)
    stream, state = LogMelStream(), model.init_state(look_ahead=look_ahead)
    parts = [model.step(tensor(stream.push(samples[i : i + 320])), state) for i in range(0, len(samples), 320)]
    parts.append(model.step(tensor(stream.flush()), state, flush=True))
    for name in ("emotion_logits", "gate", "expression"):
        streamed = torch.cat([getattr(part, name) for part in parts], 1)
        assert streamed.shape == getattr(whole, name).shape
        assert (streamed - getattr(whole, name)).abs().max() <= 1e-5, name


@pytest.mark.parametrize(("look_ahead", "last"), [(0.06, 4), (0.16, 12)])
def test_listener_hears_no_further_than_asked(look_ahead, last):
    """A group of frames too many would make streaming late. And it hears seconds."""
    model, samples = network(), voice(4.0)
    features = tensor(log_mel_features(samples)).requires_grad_()
    model(features, look_ahead=look_ahead).emotion_logits[0, 50].sum().backward()
    heard = features.grad[0].abs().sum(-1).nonzero()[:, 0]
    assert heard.max() == 50 * 4 + last
    assert heard.min() < 60  # a second and a half before


@torch.inference_mode()
def test_starts_neutral_and_cannot_jump():
    """Even a listener that is sure of anger from the first moment shows it within a second, not within a frame."""
    model = network(0.0)
    model.listener.out.bias[:-1] = torch.where(torch.arange(7) == EMOTIONS.index("angry"), 9.0, -9.0)
    model.listener.out.bias[-1] = 9.0
    out = model(tensor(log_mel_features(voice(4.0))))
    shown = (out.gate * out.emotion_logits.softmax(-1))[0]
    assert shown[0, :NEUTRAL].max() < 0.1
    change = (shown[1:] - shown[:-1]).abs().max() * 25
    assert change <= 1 / REACTION + 1e-3
    assert shown[50, EMOTIONS.index("angry")] > 0.85


@torch.inference_mode()
@pytest.mark.parametrize("level", [0.0, 0.003, 0.05, 0.5])
def test_noise_and_silence_are_no_emotion(level):
    """A listener that finds everything angry says nothing of noise, however loud: it once heard disgust in it."""
    model = network(0.0)
    model.listener.out.bias[:-1] = torch.where(torch.arange(7) == EMOTIONS.index("angry"), 9.0, -9.0)
    model.listener.out.bias[-1] = 9.0
    noise = np.random.default_rng(0).normal(0, level, 64_000).astype(np.float32)
    assert model(tensor(log_mel_features(noise))).gate.max() < 0.1


@torch.inference_mode()
def test_untrained_it_changes_nothing_that_shows():
    """The open weights have a listener that has learned nothing: neutral, with a small g, whatever it hears."""
    plain, hearing = network(0.0, listener_dim=0), network(0.0)
    hearing.load_state_dict(plain.state_dict(), strict=False)
    features = tensor(log_mel_features(voice(3.0, 300.0, 0.5)))
    one, two = plain(features), hearing(features)
    assert (one.expression - two.expression).abs().max() < 0.01
    assert two.gate.max() < 0.05 and (two.emotion_logits.argmax(-1) == NEUTRAL).all()
    same = hearing(features, emotion_logits=torch.zeros(1, 7), gate=0.5)
    assert torch.equal(same.expression, plain(features, emotion_logits=torch.zeros(1, 7), gate=0.5).expression)


def test_without_a_listener_old_weights_load():
    """A config that knows no listener gets none, and a state dict of before fits it."""
    model = network(listener_dim=0)
    assert model.listener is None and not any("listener" in key for key in model.state_dict())
    for wrong in (dict(listener_dim=-1), dict(listener_dim=8, frontend="transformers", audio_feature_dim=24)):
        with pytest.raises(ValueError, match="listener_dim"):
            EmoTaGMotionConfig(**wrong)


def test_pitch_survives_the_front_end():
    """The front end takes a voice's running pitch away; added up again it tells a high voice from a low one."""
    columns = slice(22, 24)  # mean of pitch and of pitch relative to the running mean
    low, high = (statistics(voice(6.0, f0))[-1, columns] for f0 in (110.0, 220.0))
    assert high[0] - low[0] == pytest.approx(np.log(2), abs=0.1)
    assert (high[1] - low[1]).abs() < 0.4


def test_gain_hardly_counts():
    """Loudness is the microphone's: 12 dB more must not be another voice."""
    samples = voice(6.0)
    one, louder = statistics(samples)[-1], statistics(samples * 4)[-1]
    assert (one - louder).abs().max() < 0.15


@torch.inference_mode()
def test_silence_is_known_to_be_silence_and_fades():
    """Nothing can be trusted of silence; after speech, trust fades within some memories."""
    listener = VoiceListener(EmoTaGMotionConfig(listener_dim=1))
    state = listener.init_state()
    assert listener.statistics(torch.zeros(1, 400, 82), state)[1][..., :-1].max() == 0
    spoken = listener.statistics(tensor(log_mel_features(voice(3.0))), state)[1]
    after = listener.statistics(torch.zeros(1, 2000, 82), state)[1]
    assert spoken[0, -1, 0] > 0.8 and after[0, -1, 0] < 0.1


@torch.inference_mode()
def test_stays_float32_in_a_half_precision_model():
    """Sums over minutes have no digits to spare; what comes out has the model's type."""
    model = network().to(torch.bfloat16)
    assert model.listener.hidden.weight.dtype == torch.float32
    out = model(tensor(log_mel_features(voice(1.0))).to(torch.bfloat16))
    assert out.emotion_logits.dtype == torch.bfloat16 and out.expression.isfinite().all()


def test_every_part_of_the_listener_learns():
    """A parameter without a gradient is decoration."""
    model = network().train()
    out = model(tensor(log_mel_features(voice(2.0))))
    (out.emotion_logits.square().sum() + out.gate.sum()).backward()
    listener = {n: p for n, p in model.named_parameters() if n.startswith("listener.")}
    assert listener and all(p.grad is not None and p.grad.abs().max() > 0 for p in listener.values())


@pytest.mark.real_data
def test_statistics_tell_acted_emotions_of_strangers(test_data):
    """A linear reading of the statistics, learned from four actors, knows six emotions of two others (chance 0.17)."""
    from emotag_hf.audio.audio_io import read_audio

    letters = "WEAFTN"
    names, rows = [], []
    for path in sorted((test_data / "data" / "emodb").glob("*.flac")):
        speaker, letter = path.stem[:2], path.stem[5]
        if speaker in ("03", "08", "09", "11", "13", "16") and letter in letters:
            names.append((speaker, letters.index(letter)))
            rows.append(statistics(read_audio(path))[-1])
    speakers = np.array([speaker for speaker, _ in names])
    labels = torch.tensor([label for _, label in names])
    table = torch.stack(rows)
    strange = torch.from_numpy(np.isin(speakers, ("11", "16")))
    known = (table - table[~strange].mean(0)) / table[~strange].std(0)
    known = torch.cat([known, torch.ones(len(known), 1)], -1)
    one_hot = torch.nn.functional.one_hot(labels, 6).float()
    share = (1 / one_hot[~strange].sum(0))[labels[~strange], None]
    inner = known[~strange].T @ (share * known[~strange]) + 0.5 * torch.eye(known.shape[1])
    weights = torch.linalg.solve(inner, known[~strange].T @ (share * one_hot[~strange]))
    guess = (known[strange] @ weights).argmax(-1)
    right = [(guess[labels[strange] == c] == c).float().mean() for c in range(6)]
    assert sum(right) / 6 > 0.5
