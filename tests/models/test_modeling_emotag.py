"""EmoTaGModel: composition, strict loading, and the flat folder."""

from __future__ import annotations

import json
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from emotag_hf import EmoTaGConfig, EmoTaGModel, FlameMotion
from emotag_hf.constants import DEFAULT_MODEL, OPEN_MODEL, WEIGHTS_NAME
from emotag_hf.hub.avatar_card import RESEARCH_LICENSE
from emotag_hf.models import modeling_emotag
from emotag_hf.utils.asset_paths import model_path


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    """A small random model on the open head, saved."""
    torch.manual_seed(0)
    config = EmoTaGConfig(
        gaussians_config={"num_gaussians": 300, "num_mouth_gaussians": 40},
        motion_config={"hidden_dim": 32, "num_layers": 2},
    )
    model = EmoTaGModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        model.gaussians.binding.copy_(torch.randint(0, len(model.head.faces), (300,)))
        model.gaussians.canonical.uniform_(-1, 1)
        model.shape.normal_()
    folder = tmp_path_factory.mktemp("tiny")
    model.save_pretrained(folder)
    return folder, model


def test_round_trip_restores_every_parameter_and_buffer(tiny_folder):
    """`from_pretrained` builds on the meta device, where unsaved buffers come back as silent garbage: compare all."""
    folder, model = tiny_folder
    again = EmoTaGModel.from_pretrained(folder)
    ours = dict(model.named_parameters()) | dict(model.named_buffers())
    theirs = dict(again.named_parameters()) | dict(again.named_buffers())
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert theirs[name].device.type == "cpu", name
        assert torch.equal(value, theirs[name]), name


def test_checkpoint_holds_no_number_of_the_head(tiny_folder):
    """A head may be licensed to its user alone: it must not travel with an avatar."""
    folder, _ = tiny_folder
    assert not [k for k in load_file(folder / WEIGHTS_NAME) if k.startswith("head")]


def test_posed_frames_are_the_same_alone_and_in_a_batch(tiny_folder):
    """Frames may not depend on which others are posed with them."""
    _, model = tiny_folder
    motion = FlameMotion.zeros(5)
    motion.expression.uniform_(0, 1)
    motion.jaw_pose[:, 0] = torch.linspace(0, 0.3, 5)
    motion.mouth_code = torch.randn(5, model.config.motion_config.mouth_code_dim)
    with torch.no_grad():
        together = model.pose(motion)
        alone = model.pose(motion[3:4])
    torch.testing.assert_close(together.means[3], alone.means[0], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(together.scales[3], alone.scales[0], atol=1e-7, rtol=1e-4)


def test_gradients_flow_from_posed_gaussians_to_expression(tiny_folder):
    """Training needs the whole chain differentiable."""
    _, model = tiny_folder
    motion = FlameMotion.zeros(2)
    motion.expression.requires_grad_()
    model.pose(motion).means.square().sum().backward()
    assert motion.expression.grad.abs().sum() > 0


def _copy(folder, tmp_path):
    target = tmp_path / "model"
    shutil.copytree(folder, target)
    return target


def test_missing_and_unexpected_keys_are_named(tiny_folder, tmp_path):
    """transformers only warns; a head with random parts must not speak."""
    folder = _copy(tiny_folder[0], tmp_path)
    state = load_file(folder / WEIGHTS_NAME)
    state["surprise"] = state.pop("gaussians.means")
    save_file(state, folder / WEIGHTS_NAME, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"does not match its config: missing gaussians.means; unexpected surprise"):
        EmoTaGModel.from_pretrained(folder)


def test_a_changed_number_of_gaussians_is_an_error(tiny_folder, tmp_path):
    """Config and weights that disagree are refused, not padded."""
    folder = _copy(tiny_folder[0], tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["gaussians_config"]["num_gaussians"] = 299
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ValueError, match="does not match its config: of another shape gaussians.binding, .* and 3 more"
    ):
        EmoTaGModel.from_pretrained(folder)


def test_corrupt_weights_are_one_sentence(tiny_folder, tmp_path):
    """A download that broke off."""
    folder = _copy(tiny_folder[0], tmp_path)
    data = (folder / WEIGHTS_NAME).read_bytes()
    (folder / WEIGHTS_NAME).write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="model: .* is not a whole safetensors file"):
        EmoTaGModel.from_pretrained(folder)


@pytest.mark.parametrize("name", [WEIGHTS_NAME, "pytorch_model.bin"])
def test_a_pickle_is_never_loaded_under_any_name(tiny_folder, tmp_path, name):
    """Unpickling runs code: refused before a byte of it is read as weights."""
    folder = _copy(tiny_folder[0], tmp_path)
    (folder / WEIGHTS_NAME).unlink()
    (folder / name).write_bytes(pickle.dumps({"gaussians.means": 1}))
    with pytest.raises(ValueError, match="pickle"):
        EmoTaGModel.from_pretrained(folder)


def test_a_zip_pickle_of_torch_is_never_loaded(tiny_folder, tmp_path):
    """torch.save under the name of safetensors."""
    folder = _copy(tiny_folder[0], tmp_path)
    torch.save({"a": torch.ones(1)}, folder / WEIGHTS_NAME)
    with pytest.raises(ValueError, match="is a pickle, which is never loaded"):
        EmoTaGModel.from_pretrained(folder)


def test_another_head_is_refused(tiny_folder, tmp_path):
    """Gaussians are bound to the triangles of one asset; on another they would be anywhere."""
    folder = _copy(tiny_folder[0], tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["head_config"]["sha256"] = "0" * 64
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="bound to head 'open_head' with sha256 000000000000"):
        EmoTaGModel.from_pretrained(folder)


def test_unknown_config_names_are_refused():
    """transformers stores any keyword in silence; a spelling mistake would be lost."""
    with pytest.raises(ValueError, match="unknown argument num_gausians; expected one of num_correctives, num_g"):
        EmoTaGConfig(gaussians_config={"num_gausians": 3})
    with pytest.raises(ValueError, match="sh_degree: expected 0, 1 or 2, got 7"):
        EmoTaGConfig(gaussians_config={"sh_degree": 7})


@pytest.mark.parametrize("name, license", [(DEFAULT_MODEL, RESEARCH_LICENSE), (OPEN_MODEL, "apache-2.0")])
def test_embedded_models_name_their_head_and_licence(name, license):
    """Both are bound to the embedded head; what learned from real recordings says so, what did not is free to use."""
    config = EmoTaGConfig.from_pretrained(model_path(name))
    from emotag_hf import ParametricHead

    assert config.head_config.sha256 == ParametricHead.from_asset(None).sha256
    assert config.weights_license == license


def test_the_licence_of_real_recordings_is_said_once(caplog):
    """Loading the default model says what its weights may be used for, once; the open one has nothing to say."""
    modeling_emotag._say_licence_once.cache_clear()
    EmoTaGModel.from_pretrained(OPEN_MODEL)
    assert not caplog.records
    for _ in range(2):
        EmoTaGModel.from_pretrained(DEFAULT_MODEL)
    (record,) = caplog.records
    assert RESEARCH_LICENSE in record.getMessage() and OPEN_MODEL in record.getMessage()


@pytest.mark.parametrize("value", [-5, 10**8])
def test_a_binding_beyond_the_head_is_refused(tiny_folder, tmp_path, value):
    """Kernels index by it without looking: a damaged or hostile checkpoint crashed the process."""
    folder = _copy(tiny_folder[0], tmp_path)
    state = load_file(folder / WEIGHTS_NAME)
    state["gaussians.binding"][0] = value
    save_file(state, folder / WEIGHTS_NAME, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="gaussians.binding must hold triangles 0 to"):
        EmoTaGModel.from_pretrained(folder)


@pytest.mark.parametrize("how", ["to", "from_pretrained"])
def test_a_smaller_dtype_leaves_the_geometry_alone(tiny_folder, how):
    """bfloat16 has three digits: it moved Gaussians by two millimetres, and coming back did not bring them home."""
    folder, model = tiny_folder
    if how == "to":
        half = EmoTaGModel.from_pretrained(folder).to(torch.bfloat16)
    else:
        half = EmoTaGModel.from_pretrained(folder, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    motion = FlameMotion.zeros(1)
    with torch.no_grad():
        torch.testing.assert_close(half.pose(motion).means, model.pose(motion).means, atol=0, rtol=0)


def test_pose_sees_parameters_written_through_data(tiny_folder):
    """Averaging weights writes `.data`, which counts no version: nothing may be remembered across it."""
    model = EmoTaGModel.from_pretrained(tiny_folder[0])
    with torch.no_grad():
        before = model.pose(FlameMotion.zeros(1)).scales
        model.gaussians.log_scales.data.add_(1.0)
        torch.testing.assert_close(model.pose(FlameMotion.zeros(1)).scales, before * 2.718281828)


def test_a_background_of_another_size_is_refused(tiny_folder):
    """The kernel reads it pixel by pixel, beyond its end if it is smaller than the picture."""
    _, model = tiny_folder
    with torch.no_grad(), pytest.raises(ValueError, match=r"background: expected a tensor of shape \(64, 64, 3\)"):
        model.render(model.pose(FlameMotion.zeros(1)), model.camera(64), torch.zeros(32, 32, 3))
