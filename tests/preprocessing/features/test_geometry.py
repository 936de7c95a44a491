"""Depth and normals: the mesh's against what is known of it, and teachers of the Hub built at toy size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from emotag_hf.models.modeling_head import ParametricHead
from emotag_hf.outputs import FlameMotion
from emotag_hf.preprocessing.features import geometry
from emotag_hf.preprocessing.features.geometry import (
    DepthTeacher,
    NormalTeacher,
    align_depth,
    head_geometry,
    match_axes,
    normals_from_depth,
    standardise_depth,
)
from emotag_hf.preprocessing.tracking.head_track import HeadTrack
from emotag_hf.rendering import Camera

SIZE = 160


@pytest.fixture(scope="module")
def head():
    return ParametricHead()


@pytest.fixture
def track(head):
    """Three frames: to the front, turned to its left, and a failed one."""
    motion = FlameMotion.zeros(3)
    motion.rotation[1, 1] = 0.7
    nothing = torch.zeros(3)
    return HeadTrack(
        motion=motion,
        shape=torch.zeros(head.num_shape),
        camera=Camera.portrait(SIZE, distance=1.44),
        valid=torch.tensor([True, True, False]),
        confidence=nothing,
        error=nothing,
        held_out_error=nothing,
        landmarks=torch.zeros(3, 478, 3),
        head_sha256=head.sha256,
    )


def test_head_geometry(head, track):
    """The nose's tip is nearest, in metres; normals have unit length and look at the camera; the mask is the head."""
    depth, normals, mask = head_geometry(track, [0, 1, 2], head)
    assert depth.shape == mask.shape == (3, SIZE, SIZE) and normals.shape == (3, SIZE, SIZE, 3)
    nose = head.landmarks(head.v_template[None])[0, 1]
    row, column = np.unravel_index(np.where(mask[0], depth[0], 9).argmin(), mask[0].shape)
    assert depth[0, row, column] == pytest.approx(1.44 - nose[2].item(), abs=0.003)
    assert column == pytest.approx(SIZE / 2, abs=2)
    assert row + 0.5 == pytest.approx(SIZE / 2 - nose[1].item() * 4 * SIZE / depth[0, row, column], abs=3)
    lengths = np.linalg.norm(normals, axis=-1)
    np.testing.assert_allclose(lengths[depth > 0], 1, atol=1e-5)
    assert (lengths[depth == 0] == 0).all() and not mask[depth == 0].any()
    assert (normals[..., 2][mask] < 0.1).mean() > 0.995 and normals[..., 2][mask].mean() < -0.5
    assert normals[0, row, column, 2] < -0.95  # the nose's tip faces the camera
    left = mask[0] & (np.arange(SIZE) < SIZE * 0.42)
    assert normals[0, ..., 0][left].mean() < -0.3  # the picture's left side looks to the left
    assert mask[0].any() and mask[1].any() and not mask[2].any()
    assert mask[0].mean() < (depth[0] > 0).mean() - 0.02  # neither scalp nor torso


def test_normals_agree_with_the_depth(head, track):
    """The mesh's normals are those of the mesh's depth, up to its facets and the width of a pixel."""
    depth, normals, mask = head_geometry(track, [0, 1], head, size=400)
    assert depth.shape == (2, 400, 400)
    camera = track.camera.resize(400)
    for d, n, m in zip(depth, normals, mask):
        numeric = normals_from_depth(d, camera.K)
        m = m & (np.abs(numeric).sum(-1) > 0)
        angle = np.degrees(np.arccos((numeric * n).sum(-1)[m].clip(-1, 1)))
        assert np.median(angle) < 4 and np.percentile(angle, 90) < 15


def test_only_where_it_shows(head, track):
    """The mask keeps to what the picture shows."""
    shown = np.zeros((1, SIZE, SIZE), bool)
    shown[:, : SIZE // 2] = True
    mask = head_geometry(track, [0], head, shown=shown).mask
    assert mask[:, : SIZE // 2].any() and not mask[:, SIZE // 2 :].any()
    with pytest.raises(ValueError, match="shown: expected shape"):
        head_geometry(track, [0, 1], head, shown=shown)


def test_normals_of_a_plane_and_a_sphere():
    """Known normals come out of exact depth maps; at the border and beside holes there are none."""
    camera = Camera.portrait(64, distance=1.0)
    K = camera.K.numpy()
    y, x = np.mgrid[:64, :64] + 0.5
    rays = np.stack([(x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1], np.ones_like(x)], -1)
    plane = np.array([0.3, -0.2, -1.0]) / np.linalg.norm([0.3, -0.2, -1.0])
    depth = (plane @ [0, 0, 1.0]) / (rays @ plane)
    normals = normals_from_depth(depth, K)
    np.testing.assert_allclose(normals[1:-1, 1:-1], np.broadcast_to(plane, (62, 62, 3)), atol=1e-3)
    assert (normals[0] == 0).all() and (normals[:, -1] == 0).all()
    b = rays @ [0, 0, 1.0]
    root = b**2 - (rays**2).sum(-1) * (1 - 0.1**2)
    hit = root > 1e-4
    depth = np.where(hit, (b - np.sqrt(np.maximum(root, 0))) / (rays**2).sum(-1), np.inf)
    normals = normals_from_depth(depth, K)
    expected = (rays * np.where(hit, depth, 0)[..., None] - [0, 0, 1]) / 0.1
    inner = (np.abs(normals).sum(-1) > 0) & (np.hypot(x - 32, y - 32) < 18)
    assert inner.sum() > 700
    np.testing.assert_allclose(normals[inner], expected[inner], atol=0.02)
    depth[32, 32] = np.nan
    assert (normals_from_depth(depth, K)[32, 31:34:2] == 0).all()


def test_standardise_depth():
    """Mean 0 and deviation 1 over each picture's mask; scale and offset are gone; gradients are finite."""
    rng = torch.Generator().manual_seed(0)
    depth = torch.rand(3, 20, 30, generator=rng) * 0.2 + 1.3
    mask = torch.rand(3, 20, 30, generator=rng) > 0.4
    depth[~mask] = float("inf")
    mask[2] = False
    depth.requires_grad_()
    out = standardise_depth(depth, mask)
    assert (out[~mask] == 0).all()
    for picture, m in zip(out[:2], mask[:2]):
        assert picture[m].mean().abs() < 1e-4 and picture[m].std(correction=0).item() == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close(standardise_depth(3 * depth - 1, mask), out, atol=1e-3, rtol=0)
    (gradient,) = torch.autograd.grad((out**3).sum(), depth)
    assert torch.isfinite(gradient).all() and (gradient[~mask] == 0).all()


def test_align_depth(head, track):
    """A relative depth finds its way back to metres; one that grows towards the camera is refused."""
    depth, _, mask = head_geometry(track, [0], head)
    aligned = align_depth(40 * depth[0] + 7, depth[0], mask[0])
    np.testing.assert_allclose(aligned[mask[0]], depth[0][mask[0]], atol=1e-4)
    with pytest.raises(ValueError, match="inverse=True"):
        align_depth(1 / np.maximum(depth[0], 0.1), depth[0], mask[0])
    with pytest.raises(ValueError, match="0 masked pixels"):
        align_depth(depth[0], depth[0], np.zeros_like(mask[0]))


@pytest.mark.parametrize("signs", [(1, -1, -1), (-1, 1, -1), (1, 1, 1)])
def test_match_axes(head, track, signs):
    """Whatever way a teacher's axes point, its normals come back in the camera's."""
    _, normals, mask = head_geometry(track, [0, 1], head)
    noisy = normals + np.random.default_rng(0).normal(0, 0.3, normals.shape)
    np.testing.assert_allclose(match_axes(noisy * signs, normals, mask), noisy, atol=1e-6)


def frames(count, height=50, width=70):
    rng = np.random.default_rng(0)
    small = rng.integers(0, 255, (count, 5, 7, 3), dtype=np.uint8)
    return [np.asarray(Image.fromarray(s).resize((width, height), Image.Resampling.BICUBIC)) for s in small]


def save_depth_anything(folder, kind="relative", **processor):
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config, DPTImageProcessorPil

    torch.manual_seed(0)
    backbone = Dinov2Config(
        hidden_size=24, num_hidden_layers=4, num_attention_heads=2, image_size=56, patch_size=14,
        out_indices=[1, 2, 3, 4], reshape_hidden_states=False, apply_layernorm=True,
    )  # fmt: skip
    config = DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=24, neck_hidden_sizes=[4, 8, 8, 8], fusion_hidden_size=8,
        head_hidden_size=4, depth_estimation_type=kind, max_depth=20,
    )  # fmt: skip
    DepthAnythingForDepthEstimation(config).save_pretrained(folder)
    size = {"height": 56, "width": 56}
    DPTImageProcessorPil(size=size, keep_aspect_ratio=True, ensure_multiple_of=14, **processor).save_pretrained(folder)


def test_depth_teacher(tmp_path):
    """A Depth Anything of toy size: one map per frame, of the frame's size, turned to grow away from the camera; the
    batch makes no difference."""
    save_depth_anything(tmp_path)
    teacher = DepthTeacher(str(tmp_path))
    assert teacher.inverse and teacher.source == str(tmp_path)
    given = frames(6)
    maps = list(teacher(iter(given)))
    assert len(maps) == 6 and all(m.shape == (50, 70) and m.dtype == np.float32 for m in maps)
    assert max(m.max() for m in maps) <= 0 < np.ptp(maps[0])  # the model's own numbers are positive
    np.testing.assert_allclose(maps[5], next(teacher(given[5:])), atol=1e-4)
    np.testing.assert_array_equal(next(DepthTeacher(str(tmp_path), inverse=False)(given)), -maps[0])
    assert list(teacher([])) == []


def test_metric_depth_is_left_as_it_is(tmp_path):
    """A metric model's numbers are metres already."""
    save_depth_anything(tmp_path, kind="metric")
    teacher = DepthTeacher(str(tmp_path))
    assert not teacher.inverse and 0 < next(teacher(frames(1))).min()


def test_a_processor_that_pads_is_refused(tmp_path):
    """Its maps would not lie on the frame."""
    save_depth_anything(tmp_path, do_pad=True, size_divisor=14)
    with pytest.raises(ValueError, match="model_id: expected a model whose image processor does not pad"):
        DepthTeacher(str(tmp_path))


def save_sapiens(folder, kind):
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, "Sapiens2Config"):
        pytest.skip("this transformers has no Sapiens 2")
    torch.manual_seed(0)
    config = transformers.Sapiens2Config(
        hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=[64, 48],
        num_key_value_attention_heads=1, num_first_full_attention_layers=1, num_last_full_attention_layers=1,
        num_register_tokens=1, num_labels=3,
        head_config={"upsample_out_channels": [8, 8], "upsample_kernel_sizes": [4, 4], "conv_out_channels": [8],
                     "conv_kernel_sizes": [1]},
    )  # fmt: skip
    getattr(transformers, f"Sapiens2For{kind}Estimation")(config).save_pretrained(folder)


def test_sapiens(tmp_path):
    """Sapiens 2 of toy size gives points, whose z is the depth, and normals, on square and on wide frames."""
    save_sapiens(tmp_path / "points", "Pointmap")
    save_sapiens(tmp_path / "normals", "Normal")
    for shape in ((60, 60), (40, 90)):
        given = frames(2, *shape)
        depth = list(DepthTeacher(str(tmp_path / "points"))(given))
        normals = list(NormalTeacher(str(tmp_path / "normals"))(given))
        assert [d.shape for d in depth] == [shape] * 2 and [n.shape for n in normals] == [(*shape, 3)] * 2
        assert np.isfinite(depth).all()
        np.testing.assert_allclose(np.linalg.norm(normals, axis=-1), 1, atol=1e-4)


@pytest.mark.parametrize("shape", [(60, 60), (40, 90), (200, 50)])
def test_letterbox_there_and_back(shape):
    """What is put into the letterbox comes out where it was."""
    frame = frames(1, *shape)[0]
    values, box = geometry._letterbox(Image.fromarray(frame), 96, 128)
    assert values.shape == (1, 3, 128, 96)
    mean, deviation = (torch.tensor(x).view(3, 1, 1) for x in geometry._IMAGENET)
    back = geometry._to_frame((values * deviation + mean) * 255, box, frame)
    assert np.abs(back - frame).mean() < 4
