"""The page: small, whole, closed to the network, and nothing that a name holds gets out of its place. What a browser
makes of it: test_viewer_browser.py."""

from __future__ import annotations

import base64
import io
import json
import re
import zlib

import av
import numpy as np
import pytest
import torch

from emotag_hf import FlameMotion
from emotag_hf.export.viewer_data import MAX_FRAMES, Packed, pack_motion
from emotag_hf.pipelines.output_files import save_viewer


def unpacked(packed: Packed) -> dict[str, np.ndarray]:
    """The arrays as the page reads them."""
    raw = np.frombuffer(zlib.decompress(packed.deflated()), np.uint8)
    found = {}
    for about in packed.header:
        count, width = int(np.prod(about["shape"])), 2 if about["kind"] == "q16" else 4
        planes = raw[about["offset"] : about["offset"] + count * width].reshape(width, count)
        values = np.ascontiguousarray(planes.T).view({"q16": "<u2", "f32": "<f4", "u32": "<u4"}[about["kind"]])
        values = values.reshape(about["shape"])
        found[about["name"]] = about["low"] + about["step"] * values if about["kind"] == "q16" else values
    return found


@pytest.fixture(scope="module")
def page(output) -> str:
    return output.viewer_page()


def test_packing_keeps_the_mesh(pipe, output):
    """The vertices that the page puts together are the head's to a hundredth of a millimetre; the Gaussians' numbers to
    their 65,535th part."""
    model, motion = pipe.model, output.motion
    arrays = unpacked(pack_motion(model, motion))
    with torch.no_grad():
        vertices = model.head(shape=model.shape[None], **motion.head_inputs()).vertices.numpy()
    corners = vertices[:, model.head.faces.numpy()[model.gaussians.binding.numpy()]]
    made = arrays["vertex_mean"].ravel() + arrays["vertex_codes"] @ arrays["vertex_basis"]
    made = made.reshape(len(motion), -1, 3)[:, arrays["corners"][arrays["binding"]]]
    error = np.abs(made - corners)
    assert np.sqrt((error**2).mean()) < 1.5e-5 and error.max() < 2e-4
    assert np.ptp(corners, axis=0).max() > 2e-3  # and it did move
    for name in ("means", "log_scales", "colors"):
        truth = getattr(model.gaussians, name).detach().numpy()
        assert np.abs(arrays[name] - truth).max() <= np.ptp(truth) / 65535 * 0.51 + 1e-6, name


@pytest.mark.parametrize("values", [np.zeros((3, 2)), np.full(4, 7.0), np.linspace(-3, 9, 50), np.empty((0, 9))])
def test_quantising_holds_any_range(values):
    """Constant, empty and lopsided arrays come back to half a step."""
    packed = Packed()
    packed.add_quantised("x", values)
    back = unpacked(packed)["x"]
    assert back.shape == values.shape and (np.abs(back - values) <= packed.header[0]["step"] * 0.501).all()


def test_the_page_is_small_and_whole(page, output):
    """Everything is inside: the sound of the right length, the picture, the facts; no address is left in it."""
    assert len(page) < 4_000_000
    links = re.findall(r"""(?:src|href)=(?!["']data:)|https?://(?!cv\.iptc\.org)|@import|url\(|\{\{""", page)
    assert not links
    assert "default-src 'none'" in page and "AI-generated" in page
    facts = json.loads(re.search(r'id="facts">(.*?)</script>', page, re.S)[1])
    assert facts["frames"] == 33 and facts["fps"] == 25 and facts["provenance"]["ai_generated"] is True
    sound = base64.b64decode(re.search(r"data:audio/mp4;base64,([^\"]+)", page)[1])
    with av.open(io.BytesIO(sound)) as container:
        assert container.duration / av.time_base == pytest.approx(output.audio.duration, abs=0.05)


def test_a_hostile_name_stays_a_name(output, monkeypatch):
    """A name is text in the title, in the heading and in the facts, whatever is in it; template marks in it too."""
    name = '</title></script><script>alert(1)</script>"{{DATA}}<!--'
    monkeypatch.setattr(output.frames.model.config, "avatar_name", name)
    monkeypatch.setitem(output.metadata, "model", name)
    page = output.viewer_page()
    assert "<script>alert" not in page and "</script><script" not in page and page.count("</title>") == 1
    assert json.loads(re.search(r'id="facts">(.*?)</script>', page, re.S)[1])["name"] == name
    assert "&lt;/title&gt;" in page and "{{DATA}}" in page  # a mark of the template that a name holds is not filled


def test_what_is_wrong_is_said_and_leaves_nothing(pipe, output, tmp_path):
    """One sentence that names the argument, and no file."""
    with pytest.raises(ValueError, match="path: expected a name that ends in .html"):
        save_viewer(output, tmp_path / "page.pdf")
    (tmp_path / "page.html").symlink_to(tmp_path / "elsewhere.html")
    with pytest.raises(ValueError, match="is a link"):
        save_viewer(output, tmp_path / "page.html")
    silent = pipe(output.audio, output_type="motion")
    with pytest.raises(ValueError, match="holds motion only"):
        save_viewer(silent, tmp_path / "b.html")
    with pytest.raises(ValueError, match=f"1 to {MAX_FRAMES} frames"):
        pack_motion(pipe.model, FlameMotion.zeros(MAX_FRAMES + 1))
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]
