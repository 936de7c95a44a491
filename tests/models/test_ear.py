"""Guards the ear: chunks equal the whole, it hears no further than it says, and its file is right or an error."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from emotag_hf import EmoTaGConfig, EmoTaGModel
from emotag_hf.audio.audio_features import LATENCY_MS
from emotag_hf.models.configuration_emotag import EmoTaGMotionConfig
from emotag_hf.models.ear import MAX_AHEAD, Ear, frames_ahead, seconds_ahead
from emotag_hf.models.ear_asset import ear_facts, ear_sha256, load_ear, save_ear
from emotag_hf.models.modeling_motion import GatedResidualMotionNetwork

LOOK_AHEADS = (0.06, 0.16, 0.4, "full")


def scrambled(num_blocks: int = 2) -> Ear:
    """An ear in which every path shows in the output."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ear = Ear(num_blocks).eval()
    with torch.no_grad():
        for name, values in ear.named_parameters():
            size = 1.0 if "distance" in name else 0.05
            values.add_(torch.randn(values.shape, generator=generator) * size)
    return ear


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("ear") / "ear.safetensors"
    save_ear(scrambled(), path, {"license": "apache-2.0"})
    return path


@pytest.fixture(scope="module")
def config(file):
    return dict(
        frontend="whisper_blocks", audio_encoder=str(file), audio_encoder_sha256=ear_sha256(file), hidden_dim=16,
        phone_dim=12, triplane_resolution=4, listener_dim=8,
    )  # fmt: skip


def network(config: dict) -> GatedResidualMotionNetwork:
    torch.manual_seed(0)
    model = GatedResidualMotionNetwork(EmoTaGMotionConfig(**config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def sound(rows: int) -> torch.Tensor:
    return torch.rand(1, rows, 82, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
@pytest.mark.parametrize("look_ahead", LOOK_AHEADS, ids=str)
@pytest.mark.parametrize("rows", [1, 4, 203, 1101])
def test_chunks_equal_the_whole(config, look_ahead, rows):
    """Ear, Audio Net and Voice Listener, in chunks of 20 ms and odd ones, and as many frames as were promised."""
    model, features = network(config), sound(rows)
    whole = model(features, look_ahead=look_ahead)
    assert whole.expression.shape[1] == -(-rows // 4)
    for sizes in ((2,), (7, 1, 0, 160)):
        state, parts, start, turn = model.init_state(look_ahead=look_ahead), [], 0, 0
        while start < rows:
            parts.append(model.step(features[:, start : start + sizes[turn]], state))
            start, turn = start + sizes[turn], (turn + 1) % len(sizes)
            assert state.frames_out == model.certain(min(start, rows), state)
        parts.append(model.step(features[:, :0], state, flush=True))
        for name in ("expression", "gate", "emotion_logits", "viseme_logits"):
            streamed = torch.cat([getattr(part, name) for part in parts], 1)
            torch.testing.assert_close(streamed, getattr(whole, name), rtol=0, atol=2e-5)


@torch.inference_mode()
def test_phonemes_are_told_by_a_net_of_their_own(config):
    """It changes the visemes and no lip that they do not close; without it the Base's hidden units tell them."""
    model, features = network(config), sound(80)
    before, raw = model(features), model.base(model.audio_net(features))[0]
    for parameter in model.audio_net.phones.parameters():
        parameter.mul_(-1)
    after = model(features)
    assert not torch.allclose(before.viseme_logits, after.viseme_logits, atol=1e-2)
    assert torch.equal(raw, model.base(model.audio_net(features))[0])
    without = network(config | {"phone_dim": 0})
    assert without.audio_net.phones is None and without.viseme_head.in_features == 32
    assert without(features).viseme_logits.shape == after.viseme_logits.shape


@torch.inference_mode()
@pytest.mark.parametrize("look_ahead", LOOK_AHEADS, ids=str)
def test_it_hears_as_far_as_it_says_and_no_further(look_ahead):
    """Sound that begins later than the look-ahead after a frame changes nothing in it; the row before that does."""
    ear, features, row = scrambled(), sound(480), 240
    ahead = frames_ahead(look_ahead)
    before = ear(features, ahead)
    changed = features.clone()
    changed[:, row] += 1.0
    moved = (ear(changed, ahead) - before).abs().amax((0, 2)).view(-1, 2).amax(1) > 1e-6
    first = int(moved.nonzero()[0])
    assert row * 10 + LATENCY_MS - first * 40 <= 1000 * seconds_ahead(ahead) + 1e-6
    assert first == row // 4 - 1 - ahead
    # The past: a second in each of the blocks, and no more.
    assert int(moved.nonzero()[-1]) <= row // 4 + 2 * 25 + 1


def test_look_ahead_in_seconds():
    assert [frames_ahead(x) for x in LOOK_AHEADS] == [0, 2, 8, MAX_AHEAD]
    assert seconds_ahead(frames_ahead(0.16)) <= 0.16 and seconds_ahead(frames_ahead(0.4)) <= 0.4
    assert frames_ahead(2) == MAX_AHEAD
    for wrong in (0.05, 2.1, -1, float("nan"), "half", None, True):
        with pytest.raises(ValueError, match="look_ahead: expected seconds from 0.053 to 2"):
            frames_ahead(wrong)


@torch.inference_mode()
def test_few_rows_are_multiplied_by_eight_bits():
    """The product of a stream's few rows is that of the restored weights; many rows and gradients go another way."""
    from emotag_hf.models.ear_linear import MOST_ROWS, EarLinear

    generator = torch.Generator().manual_seed(0)
    layer = EarLinear(37, 11)
    weight8 = torch.randint(-127, 128, (11, 37), generator=generator).to(torch.int8)
    scale = torch.rand(11, generator=generator) / 100
    layer.weight.copy_(weight8 * scale[:, None])
    for rows in (0, 1, 2, 3, MOST_ROWS, MOST_ROWS + 1):
        x = torch.randn(1, rows, 37, generator=generator)
        layer.use_int8_(weight8, scale)
        torch.testing.assert_close(layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias))
        layer.use_int8_(weight8, 2 * scale)  # tells which of both weights is read
        is_int8 = not torch.allclose(layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias))
        assert is_int8 == (0 < rows <= MOST_ROWS)


@torch.inference_mode()
def test_eight_bits_are_enough(file):
    """What is stored is what was taught, to a hundredth or so; nothing of it is in a checkpoint."""
    ear, stored = scrambled(), load_ear(str(file))
    features = sound(400)
    expected = ear(features)
    assert float((stored(features) - expected).std() / expected.std()) < 0.03
    assert file.stat().st_size < 8e6 and ear_facts(str(file))["license"] == "apache-2.0"
    assert not stored.state_dict() and not list(stored.parameters())


def test_a_model_that_hears_with_an_ear(config, tmp_path):
    """It is saved without the ear, loaded with it, and its processor makes what it hears."""
    model = EmoTaGModel(EmoTaGConfig(motion_config=config, gaussians_config={"num_gaussians": 8})).eval()
    assert not [name for name in model.state_dict() if ".ear." in name]
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_size < 2e6
    loaded = EmoTaGModel.from_pretrained(tmp_path)
    with torch.inference_mode():
        assert torch.equal(loaded(sound(100)).expression, model(sound(100)).expression)
    half = EmoTaGModel.from_pretrained(tmp_path, dtype=torch.float16)
    assert half.motion.audio_net.ear.conv1.weight.dtype == torch.float32  # as Float32Module promises
    assert model.motion.look_ahead(0.16) == pytest.approx(0.1325)


def test_another_file_is_an_error_in_one_sentence(config, file, tmp_path):
    def load(**changes):
        with pytest.raises(ValueError, match="audio_encoder: ") as error:
            network(config | changes)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "there is no file" in load(audio_encoder=str(tmp_path / "none.safetensors"))
    assert "embedded: " in load(audio_encoder="ear-of-nobody")
    other = tmp_path / "other.safetensors"
    save_ear(scrambled(1), other)
    assert "install the emotag_hf version that saved it" in load(audio_encoder=str(other))
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(file.read_bytes()[:100_000])
    assert "safetensors format" in load(audio_encoder=str(cut), audio_encoder_sha256=None)
    alien = tmp_path / "alien.safetensors"
    from safetensors.numpy import save_file

    save_file({"weight": np.zeros(3, np.float32)}, alien)
    assert "is not an ear of this version" in load(audio_encoder=str(alien), audio_encoder_sha256=None)
