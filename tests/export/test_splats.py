"""Splat files: what is written is what was posed, as any reader of these formats gets it."""

from __future__ import annotations

import os
import re

import numpy as np
import pytest
import torch

from emotag_hf import Camera, rasterize
from emotag_hf.export.splats import Splats, to_compressed_ply, to_ply, to_splat
from emotag_hf.outputs import PosedGaussians
from emotag_hf.pipelines.output_files import save_splats

_TYPES = {"float": "<f4", "uint": "<u4", "uchar": "u1"}
C0 = 0.5 / np.sqrt(np.pi)  # the constant harmonic, from its definition


def read_ply(data: bytes) -> dict[str, np.ndarray]:
    """Element name -> structured array. Knows PLY, and nothing of what we mean by it."""
    header, body = data.split(b"end_header\n", 1)
    elements, offset = {}, 0
    assert header.startswith(b"ply\nformat binary_little_endian 1.0\nelement ")
    for block in re.split(rb"\nelement ", header)[1:]:
        first, *properties = block.decode().splitlines()
        name, count = first.split()
        kind = np.dtype([(p.split()[2], _TYPES[p.split()[1]]) for p in properties])
        elements[name] = np.frombuffer(body, kind, int(count), offset)
        offset += int(count) * kind.itemsize
    assert offset == len(body)
    return elements


def columns(rows: np.ndarray, *names: str) -> np.ndarray:
    return np.stack([rows[name] for name in names], 1)


def some_gaussians(count=700, degree=0, seed=0) -> PosedGaussians:
    generator = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    colors = normal(count, (degree + 1) ** 2, 3) * 0.4 if degree else torch.rand(count, 3, generator=generator)
    return PosedGaussians(
        means=normal(1, count, 3) * 0.1,
        quats=torch.nn.functional.normalize(normal(1, count, 4), dim=-1),
        scales=(normal(1, count, 3) * 0.5 - 5).exp(),
        opacities=torch.rand(count, generator=generator) * 0.98 + 0.01,
        colors=colors,
        sh_degree=degree,
    )


def gaussians_of_ply(rows: np.ndarray) -> PosedGaussians:
    """A 3DGS PLY as a viewer of it understands it."""
    rest = [name for name in rows.dtype.names if name.startswith("f_rest_")]
    count = len(rest) // 3
    dc = columns(rows, "f_dc_0", "f_dc_1", "f_dc_2")[:, None]
    more = columns(rows, *rest).reshape(-1, 3, count).transpose(0, 2, 1) if rest else dc[:, :0]
    to = torch.from_numpy
    return PosedGaussians(
        to(columns(rows, "x", "y", "z"))[None],
        to(columns(rows, "rot_0", "rot_1", "rot_2", "rot_3"))[None],
        to(columns(rows, "scale_0", "scale_1", "scale_2")).exp()[None],
        to(rows["opacity"].copy()).sigmoid(),
        to(np.concatenate([dc, more], 1) if count else (dc[:, 0] * C0 + 0.5).astype(np.float32)),
        {0: 0, 3: 1, 8: 2}[count],
    )


def picture(posed: PosedGaussians, viewmat=None) -> torch.Tensor:
    camera = Camera.portrait(64, distance=1.0, focal=120.0)
    viewmat = camera.viewmat if viewmat is None else viewmat
    one = (posed.means[0], posed.quats[0], posed.scales[0], posed.opacities, posed.frame_colors(0))
    return rasterize(*one, viewmat[None], camera.K[None], 64, 64, sh_degree=posed.sh_degree or None)[0][0]


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_a_ply_comes_back_as_the_same_gaussians(tmp_path, degree):
    """Means to the bit; activations undone and done again to rounding; the picture of what was read is the same, also
    where colours depend on the view."""
    posed = some_gaussians(degree=degree)
    save_splats(posed, tmp_path / "head.ply")
    rows = read_ply((tmp_path / "head.ply").read_bytes())["vertex"]
    again = gaussians_of_ply(rows)
    assert torch.equal(again.means, posed.means) and not columns(rows, "nx", "ny", "nz").any()
    torch.testing.assert_close(again.quats, posed.quats, atol=1e-6, rtol=0)
    torch.testing.assert_close(again.scales, posed.scales, atol=0, rtol=1e-5)
    torch.testing.assert_close(again.opacities, posed.opacities, atol=1e-5, rtol=0)
    if not degree:
        np.testing.assert_allclose(columns(rows, "f_dc_0", "f_dc_1", "f_dc_2") * C0 + 0.5, posed.colors, atol=1e-6)
    torch.testing.assert_close(picture(again), picture(posed), atol=2e-4, rtol=0)


@pytest.mark.parametrize("degree", [0, 2])
def test_y_down_turns_the_head_and_nothing_else(tmp_path, degree):
    """With y_down a camera that stands on its head sees what the camera saw before, highlights included."""
    posed = some_gaussians(degree=degree)
    save_splats(posed, tmp_path / "head.ply", y_down=True)
    turned = gaussians_of_ply(read_ply((tmp_path / "head.ply").read_bytes())["vertex"])
    assert torch.equal(turned.means, posed.means * torch.tensor([-1.0, -1.0, 1.0]))
    half_turn = torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0]))
    viewmat = Camera.portrait(64, distance=1.0, focal=120.0).viewmat
    torch.testing.assert_close(picture(turned, viewmat @ half_turn), picture(posed), atol=2e-4, rtol=0)
    assert (picture(turned) - picture(posed)).abs().max() > 0.1


def unpack(values: np.ndarray, bits: tuple[int, ...]) -> np.ndarray:
    parts = []
    for width in reversed(bits):
        parts.append((values & np.uint32((1 << width) - 1)) / ((1 << width) - 1))
        values = values >> np.uint32(width)
    return np.stack(parts[::-1], 1)


def test_compressed_ply_is_near(tmp_path):
    """Decoded as its format says: each chunk's ranges, 11/10/11 bits of places and sizes, the largest quaternion
    component left out. What nobody sees is not in it."""
    posed = some_gaussians(700)
    posed.opacities[:20] = 0.001
    found = read_ply(to_compressed_ply(Splats.of(posed)))
    chunks, rows = found["chunk"], found["vertex"]
    assert len(chunks) == 3 and len(rows) == 680 and len(found) == 2
    of = np.arange(680) // 256
    spread = lambda share, low, high: low[of] + share * (high - low)[of]  # noqa: E731
    axes = ("x", "y", "z")
    low, high = (columns(chunks, *(f"{end}_{a}" for a in axes)) for end in ("min", "max"))
    means = spread(unpack(rows["packed_position"], (11, 10, 11)), low, high)
    distance = np.linalg.norm(means[:, None] - posed.means[0, 20:].numpy(), axis=-1)
    which = distance.argmin(1)
    assert sorted(which) == list(range(680)) and distance.min(1).max() < 1e-3  # a 1023rd of a chunk's width
    which = which + 20
    low, high = (columns(chunks, *(f"{end}_scale_{a}" for a in axes)) for end in ("min", "max"))
    scales = np.exp(spread(unpack(rows["packed_scale"], (11, 10, 11)), low, high))
    np.testing.assert_allclose(scales, posed.scales[0, which], rtol=5e-3)
    color = unpack(rows["packed_color"], (8, 8, 8, 8))
    low, high = (columns(chunks, *(f"{end}_{c}" for c in "rgb")) for end in ("min", "max"))
    np.testing.assert_allclose(spread(color[:, :3], low, high), posed.colors[which], atol=3e-3)
    np.testing.assert_allclose(color[:, 3], posed.opacities[which], atol=3e-3)
    three = (unpack(rows["packed_rotation"] & np.uint32(2**30 - 1), (10, 10, 10)) - 0.5) * np.sqrt(2)
    largest = rows["packed_rotation"] >> np.uint32(30)
    quats = np.stack([np.insert(t, i, np.sqrt(1 - t @ t)) for t, i in zip(three, largest)])
    assert np.abs((quats * posed.quats[0, which].numpy()).sum(1)).min() > 0.9999


def test_splat_is_near_and_sorted():
    """32 bytes each: mean, scale, rgba, rotation around 128; the most visible first, for viewers that load slowly."""
    splats = Splats.of(some_gaussians(100))
    rows = np.frombuffer(to_splat(splats), [("m", "<f4", 3), ("s", "<f4", 3), ("c", "u1", 4), ("q", "u1", 4)])
    order = [int(np.flatnonzero((splats.means == row["m"]).all(1))[0]) for row in rows]
    assert sorted(order) == list(range(100))
    np.testing.assert_allclose(rows["s"], np.exp(splats.log_scales[order]), rtol=1e-6)
    np.testing.assert_allclose(rows["c"][:, :3] / 255, splats.rgb[order].clip(0, 1), atol=0.003)
    np.testing.assert_allclose((rows["q"] - 128.0) / 128, splats.quats[order], atol=0.01)
    weight = splats.opacities[order] * rows["s"].prod(1)
    assert (np.diff(weight) <= 1e-12).all()


def test_a_chunk_of_equal_values_is_no_division_by_zero():
    """gsplat 1.5's exporter writes garbage for the last chunk of 257 Gaussians: its width is zero."""
    posed = some_gaussians(257)
    posed.scales[:] = 0.01
    found = read_ply(to_compressed_ply(Splats.of(posed)))
    assert len(found["chunk"]) == 2 and found["vertex"]["packed_scale"].max() == 0
    assert np.isfinite(columns(found["chunk"], "min_x", "max_scale_x", "max_r")).all()


def test_the_same_as_gsplats_exporter():
    """gsplat's is the format's own hand: the same columns to rounding, the normals aside; the same packed numbers."""
    exporter = pytest.importorskip("gsplat.exporter", reason="gsplat is not installed (extra 'gpu')")
    splats = Splats.of(some_gaussians(512, degree=1))
    to = torch.from_numpy
    parts = [to(x) for x in (splats.means, splats.log_scales, splats.quats, splats.logits)]
    sh = to(splats.sh[:, :1]), to(splats.sh[:, 1:])
    theirs = read_ply(exporter.export_splats(*parts, *sh, format="ply"))["vertex"]
    ours = read_ply(to_ply(splats))["vertex"]
    assert [n for n in ours.dtype.names if n not in ("nx", "ny", "nz")] == list(theirs.dtype.names)
    for name in theirs.dtype.names:
        np.testing.assert_array_equal(ours[name], theirs[name])
    theirs = read_ply(exporter.export_splats(*parts, *sh, format="ply_compressed"))
    ours = read_ply(to_compressed_ply(splats))
    assert {k: (v.dtype, len(v)) for k, v in ours.items()} == {k: (v.dtype, len(v)) for k, v in theirs.items()}
    # the order within the file is free, and rounding may turn a last bit
    ours, theirs = (np.sort(x["vertex"]["packed_rotation"]).astype(np.int64) for x in (ours, theirs))
    assert np.mean(ours == theirs) > 0.99


def test_a_frame_of_a_pipelines_output(output, pipe, tmp_path):
    """`export` of frame 12 is frame 12's Gaussians; another frame's mouth is elsewhere."""
    plys = []
    for frame in (12, 20):
        output.export(tmp_path / "f.ply", frame=frame)
        plys.append(gaussians_of_ply(read_ply((tmp_path / "f.ply").read_bytes())["vertex"]))
    with torch.no_grad():
        posed = pipe.model.pose(output.motion[12:13])
    assert torch.equal(plys[0].means, posed.means) and not torch.equal(plys[1].means, posed.means)
    sizes = {
        name: os.path.getsize(output.export(tmp_path / f"f.{name}")) for name in ("compressed.ply", "splat", "ply")
    }
    count = pipe.model.gaussians.num_gaussians
    assert sizes["splat"] == 32 * count and sizes["compressed.ply"] < 17 * count + 4000
    assert sizes["ply"] == pytest.approx(68 * count, abs=1000)


def test_what_is_wrong_is_said_and_leaves_nothing(output, tmp_path):
    """One sentence that names the argument; no file, not even a partial one; a link is not followed."""
    (tmp_path / "elsewhere").write_text("mine")
    (tmp_path / "link.ply").symlink_to(tmp_path / "elsewhere")
    for path, options, expected in [
        ("head.obj", {}, "path: expected a name that ends in"),
        ("head.ply", {"frame": 33}, "frame: expected a whole number from 0 to 32, got 33"),
        ("head.ply", {"frame": -1}, "frame: expected"),
        ("head.ply", {"format": "obj"}, "format: expected one of"),
        ("link.ply", {}, "is a link"),
    ]:
        with pytest.raises(ValueError, match=expected):
            output.export(tmp_path / path, **options)
    with pytest.raises(FileNotFoundError, match="there is no"):
        output.export(tmp_path / "nowhere" / "head.ply")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["elsewhere", "link.ply"]
    assert (tmp_path / "elsewhere").read_text() == "mine"
