"""Guards GRMN: its shapes and controls, that streaming equals offline, and what it may hear."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from emotag_hf.audio.audio_features import LATENCY_MS, LogMelStream, log_mel_features
from emotag_hf.constants import EMOTIONS, EXPRESSION_NAMES, GRMN_ACTION_UNITS
from emotag_hf.models.configuration_emotag import EmoTaGMotionConfig
from emotag_hf.models.lip_closures import VISEMES
from emotag_hf.models.modeling_motion import GatedResidualMotionNetwork, adain
from emotag_hf.motion.emotion_prototypes import action_unit_prototypes, emotion_to_logits, expression_prototypes

FIELDS = ("expression", "jaw_pose", "mouth_code", "gate", "emotion_logits", "viseme_logits")
SMALL = dict(hidden_dim=16, num_layers=2, triplane_resolution=4)


def network(seed: int = 0, scramble: bool = True, **settings) -> GatedResidualMotionNetwork:
    """A small GRMN; scrambled, so that no layer is zero and every path shows in the output."""
    torch.manual_seed(seed)
    model = GatedResidualMotionNetwork(EmoTaGMotionConfig(**{**SMALL, **settings})).eval()
    if scramble:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def sound(count: int) -> np.ndarray:
    time = np.arange(count) / 16_000
    buzz = sum(np.sin(2 * np.pi * 130 * k * time + k) / k for k in range(1, 15))
    return (buzz * np.clip(np.sin(2 * np.pi * 2.3 * time) * 3, 0, 1) * 0.1).astype(np.float32)


def tensor(features: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(features)[None]


@torch.inference_mode()
@pytest.mark.parametrize("look_ahead", [0.06, 0.16, "full"])
@pytest.mark.parametrize("count", [24_321, 640, 160])
def test_twenty_millisecond_chunks_equal_offline(look_ahead, count):
    """The promise of streaming, end to end: 20 ms of sound at a time through features and network, same frames out."""
    model = network()
    samples = sound(count)
    frames = -(-count // 640)
    controls = dict(
        action_units=torch.rand(1, frames, 6) * 5,
        identity_embedding=torch.randn(1, 512),
        emotion_logits=torch.randn(1, frames, 7),
        gate=torch.rand(1, frames, 1),
    )
    whole = model(tensor(log_mel_features(samples)), look_ahead=look_ahead, **controls)
    stream, state = LogMelStream(), model.init_state(look_ahead=look_ahead)
    parts = [model.step(tensor(stream.push(samples[i : i + 320])), state, **controls) for i in range(0, count, 320)]
    parts.append(model.step(tensor(stream.flush()), state, flush=True, **controls))
    for name in FIELDS:
        streamed = torch.cat([getattr(p, name) for p in parts], 1)
        assert streamed.shape == getattr(whole, name).shape and streamed.shape[1] == frames
        assert (streamed - getattr(whole, name)).abs().max() <= 1e-5, name


@pytest.mark.parametrize(("look_ahead", "last"), [(0.06, 4), (0.16, 12), (0.4, 36)])
def test_look_ahead_is_bounded_and_used(look_ahead, last):
    """A video frame hears exactly as far ahead as is asked, the feature window included, no further."""
    model = network()
    features = torch.rand(1, 400, 82, requires_grad=True)
    output = model(features, look_ahead=look_ahead)
    torch.cat([output.expression, output.jaw_pose, output.gate, output.emotion_logits], -1)[0, 50].sum().backward()
    heard = features.grad[0].abs().sum(-1).nonzero()[:, 0]
    assert heard.max() == 50 * 4 + last
    assert (10 * last + LATENCY_MS) / 1000 <= model.look_ahead(look_ahead) <= look_ahead
    assert 200 - heard.min() >= 100  # and a second of the past


@torch.inference_mode()
def test_delay_of_streaming():
    """A frame comes out as soon as its look-ahead has been heard: the latency users feel."""
    model = network()
    state = model.init_state(look_ahead=0.16)
    counts = [model.step(torch.rand(1, 1, 82), state).expression.shape[1] for _ in range(40)]
    arrived = [i for i, c in enumerate(counts) if c]
    assert arrived[0] == 12 and np.diff(arrived).tolist() == [4] * (len(arrived) - 1)


@torch.inference_mode()
def test_padding_a_batch_is_silence():
    """A short recording in a batch moves as it does alone with silence after it: zero features are silence."""
    model = network()
    long, short = log_mel_features(sound(20_000)), log_mel_features(sound(9_600))
    batch = torch.zeros(2, len(long), 82)
    batch[0], batch[1, : len(short)] = torch.from_numpy(long), torch.from_numpy(short)
    together, alone = model(batch), model(torch.nn.functional.pad(tensor(short), (0, 0, 0, len(long) - len(short))))
    assert torch.allclose(together.expression[1], alone.expression[0], atol=1e-5)


@torch.inference_mode()
def test_base_hears_audio_only_and_gate_mixes():
    """motion = Base + g * Residual: with g = 0 action units do nothing, and the residual scales with g (METHOD 3)."""
    model = network()
    features = torch.rand(1, 80, 82)
    silent = model(features, gate=0.0)
    assert torch.equal(silent.expression, model(features, gate=0.0, action_units=torch.full((1, 6), 4.0)).expression)
    logits = torch.randn(1, 7)
    half, full = (model(features, gate=g, emotion_logits=logits) for g in (0.5, 1.0))
    assert torch.allclose(full.jaw_pose - silent.jaw_pose, 2 * (half.jaw_pose - silent.jaw_pose), atol=1e-5)
    free = model(features, action_units=torch.rand(1, 20, 6) * 5)
    assert ((free.gate > 0) & (free.gate < 1)).all() and not torch.allclose(free.gate, model(features).gate)


@torch.inference_mode()
def test_identity_starts_as_the_prior_and_then_modulates_both_streams():
    """The last layer of ID Net starts at zero: an unadapted network is the prior, whoever speaks (METHOD 3)."""
    features, who = torch.rand(1, 80, 82), torch.randn(1, 512)
    fresh = network(scramble=False)
    assert torch.equal(fresh(features).expression, fresh(features, identity_embedding=who).expression)
    trained = network()
    prior, modulated = trained(features), trained(features, identity_embedding=who)
    assert not torch.allclose(prior.viseme_logits, modulated.viseme_logits, atol=1e-3)  # the audio stream
    gamma = torch.zeros(1, 16)
    assert torch.allclose(adain(torch.rand(1, 5, 16), gamma, gamma + 3).mean(-1), torch.full((1, 5), 3.0), atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("emotion", EMOTIONS)
def test_emotion_acts_from_the_first_weights(emotion):
    """An untrained network already shows each emotion in proportion to the gate, evenly left and right."""
    model, features = network(scramble=False), torch.zeros(1, 40, 82)
    logits = emotion_to_logits(emotion)[None]
    rest = model(features, emotion_logits=logits, gate=0.0).expression
    half = model(features, emotion_logits=logits, gate=0.5).expression - rest
    full = model(features, emotion_logits=logits, gate=1.0).expression - rest
    assert torch.allclose(full, 2 * half, atol=1e-5)
    if emotion == "neutral":
        assert full.abs().max() < 1e-4
        return
    assert full.max() > 0.6 and full[0, 0].norm() > 0.9
    left = [i for i, n in enumerate(EXPRESSION_NAMES) if n.endswith("_L")]
    right = [EXPRESSION_NAMES.index(EXPRESSION_NAMES[i][:-1] + "R") for i in left]
    assert torch.allclose(full[..., left], full[..., right])


@torch.inference_mode()
def test_emotion_leaves_closed_lips_closed():
    """Surprise opens the mouth; while p, b or m is heard it must not."""
    model, features = network(scramble=False), torch.zeros(1, 40, 82)
    funnel = EXPRESSION_NAMES.index("mouthFunnel")
    for heard in (0.0, 9.0):
        for layer in (model.base_motion, model.viseme_head):
            layer.weight.zero_()
            layer.bias.zero_()
        model.viseme_head.bias[VISEMES.index("pp")] = heard
        output = model(features, emotion_logits=emotion_to_logits("surprise")[None], gate=1.0)
        opens = output.jaw_pose[..., 0].max() > 0.01 and output.expression[..., funnel].max() > 0.05
        assert opens == (heard == 0.0)
        assert output.expression[..., EXPRESSION_NAMES.index("browInnerUp_L")].min() > 0.5


def test_emotion_to_logits():
    """Mixtures come back as the probabilities they were, and nonsense is refused by name."""
    mixture = emotion_to_logits({"happy": 0.6, "surprise": 0.4}).softmax(-1)
    assert mixture[EMOTIONS.index("happy")] == pytest.approx(0.6, abs=1e-4)
    assert emotion_to_logits({"sad": 0.3}).softmax(-1)[EMOTIONS.index("neutral")] == pytest.approx(0.7, abs=1e-4)
    assert emotion_to_logits({"sad": 2, "fear": 2}).softmax(-1)[EMOTIONS.index("fear")] == pytest.approx(0.5, abs=1e-4)
    for wrong in ("bored", {"happy": -1.0}, {"happy": float("nan")}, {}):
        with pytest.raises(ValueError, match="emotion"):
            emotion_to_logits(wrong)


def test_prototypes_name_real_directions():
    """A misspelt direction in a table would silently do nothing."""
    from emotag_hf.motion.emotion_prototypes import ACTION_UNIT_PROTOTYPES, EXPRESSION_PROTOTYPES

    for values in EXPRESSION_PROTOTYPES.values():
        for name in set(values) - {"jaw"}:
            assert name in EXPRESSION_NAMES or f"{name}_L" in EXPRESSION_NAMES, name
    assert {n for v in ACTION_UNIT_PROTOTYPES.values() for n in v} <= set(GRMN_ACTION_UNITS)
    assert expression_prototypes().shape == (7, 53) and action_unit_prototypes().shape == (7, 6)
    assert expression_prototypes()[:, 50].max() <= 0.05  # no emotion holds the jaw open
    assert expression_prototypes().max() <= 1 and expression_prototypes()[EMOTIONS.index("neutral")].abs().max() == 0


@torch.inference_mode()
def test_mouth_offsets():
    """Zero before training, linear in the mouth code, and the cached basis gives the same."""
    positions, code = torch.rand(11, 3) * 2 - 1, torch.randn(5, 8)
    assert network(scramble=False).mouth_offsets(code, positions).abs().max() == 0
    model = network()
    offsets = model.mouth_offsets(code, positions)
    assert offsets.shape == (5, 11, 9) and offsets.abs().max() > 0
    assert torch.allclose(model.mouth_offsets(2 * code, basis=model.mouth_basis(positions)), 2 * offsets, atol=1e-5)
    assert not torch.allclose(offsets[:, 0], offsets[:, 1])  # it depends on where the Gaussian is
    with pytest.raises(ValueError, match="positions"):
        model.mouth_offsets(code)


def test_gradients_reach_every_part():
    """Each parameter must be trainable, or a part of the method is decoration."""
    model = network().train()
    output = model(torch.rand(1, 80, 82), torch.rand(1, 20, 6), torch.randn(1, 512))
    offsets = model.mouth_offsets(output.mouth_code[0], torch.rand(4, 3))
    sum(getattr(output, n).square().sum() for n in FIELDS).add(offsets.square().sum()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or p.grad.abs().max() == 0] == []


@torch.inference_mode()
def test_transformer_audio_net():
    """The paper's Audio Net: one feature per video frame from 50 Hz tokens, hearing no further than the look-ahead."""
    settings = dict(frontend="transformers", audio_feature_dim=24, num_attention_heads=2, intermediate_dim=32)
    model = network(**settings)
    tokens = torch.randn(2, 61, 24)
    before = model(tokens)
    assert before.expression.shape == (2, 31, 50)
    changed = tokens.clone()
    changed[:, 40:] += 1.0  # token 40 starts at 800 ms; its 25 ms end at 825 ms
    moved = (model(changed).expression - before.expression).abs().amax((0, 2)) > 1e-7
    assert moved.nonzero().min() * 40 + 160 >= 825 and moved[20:].all()
    with pytest.raises(ValueError, match="whisper_blocks"):
        model.init_state()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(input_features=torch.zeros(1, 10, 80)), "input_features"),
        (dict(input_features=torch.zeros(10, 82)), "input_features"),
        (dict(action_units=torch.zeros(1, 10, 5)), "action_units"),
        (dict(emotion_logits=torch.zeros(7)), "emotion_logits"),
        (dict(gate=torch.zeros(3, 1)), "gate"),
        (dict(identity_embedding=torch.zeros(1, 128)), "identity_embedding"),
    ],
)
def test_wrong_shapes_are_named(arguments, message):
    """A wrong shape must not broadcast into plausible motion."""
    with pytest.raises(ValueError, match=message):
        network()(**{"input_features": torch.zeros(1, 40, 82), **arguments})


def test_ended_stream_and_bad_config():
    """A flushed state is spent; impossible sizes are refused when the config is made."""
    model = network()
    state = model.init_state()
    model.step(torch.zeros(1, 8, 82), state, flush=True)
    with pytest.raises(ValueError, match="flushed"):
        model.step(torch.zeros(1, 8, 82), state)
    for wrong in (dict(fps=30), dict(look_ahead_ms=200), dict(frontend="mfcc"), dict(mouth_code_dim=0)):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            EmoTaGMotionConfig(**wrong)


def test_number_of_visemes():
    """The training-only head and its class names must agree."""
    assert len(VISEMES) == EmoTaGMotionConfig().num_visemes == len(set(VISEMES))
