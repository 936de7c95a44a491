"""The page in a real browser, opened from disk: it draws what the package draws, moves, turns and plays."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest
from PIL import Image

from emotag_hf.pipelines.output_files import save_viewer
from emotag_hf.rendering.compositing import make_background, to_uint8

pytestmark = [pytest.mark.browser, pytest.mark.slow]
SIZE = 256
MOUTH = (slice(130, 190), slice(90, 166))  # rows and columns of the portrait


@pytest.fixture(scope="module")
def page(browser, output, tmp_path_factory):
    yield from opened(browser, output, tmp_path_factory.mktemp("viewer") / "head.html")


@pytest.fixture(scope="module")
def odd_page(browser, odd_output, tmp_path_factory):
    yield from opened(browser, odd_output, tmp_path_factory.mktemp("viewer") / "head.html")


def opened(browser, output, path):
    """The viewer, opened by file://. Whatever it asks the network for, or complains of, fails the tests."""
    save_viewer(output, path)
    page = browser.new_page(viewport={"width": 900, "height": 800})
    page.complaints = []
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("console", lambda m: page.complaints.append(m.text) if m.type == "error" else None)
    asked = lambda r: None if r.url.startswith(("data:", path.as_uri())) else page.complaints.append(r.url)  # noqa: E731
    page.on("request", asked)
    page.goto(path.as_uri())
    wait(page, "Boolean(window.emotag)")
    yield page
    assert page.complaints == []
    page.close()


def wait(page, condition: str, seconds: float = 60) -> None:
    """Until a condition holds. (The page's own policy forbids what playwright's `wait_for_function` does.)"""
    end = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < end, f"{condition} did not come true; {page.complaints}"
        page.wait_for_timeout(50)


def screenshot(page, frame: int, **seen) -> np.ndarray:
    page.evaluate("([frame, size, seen]) => emotag.show(frame, size, seen)", [frame, SIZE, seen])
    png = page.screenshot(clip={"x": 0, "y": 0, "width": SIZE, "height": SIZE})
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.square(a.astype(float) - b).mean()))


def mouths(output) -> tuple[int, int]:
    """The frames in which the mouth is most and least open."""
    jaw = output.motion.jaw_pose[:, 0]
    return int(jaw.argmax()), int(jaw.argmin())


def test_it_draws_what_the_package_draws(page, output):
    """Same frame, camera and size: at least 40 dB against the package's own picture (25 are asked for), at the mouth,
    too; not blank; and two frames differ at the mouth, as the package's do."""
    shots, own = [], []
    for frame in mouths(output):
        shots.append(screenshot(page, frame))
        own.append((np.asarray(output.frames[frame]) * 255).round().astype(np.uint8))
        assert psnr(shots[-1], own[-1]) > 40 and psnr(shots[-1][MOUTH], own[-1][MOUTH]) > 35
        assert shots[-1].std() > 20
    apart = psnr(shots[0][MOUTH], shots[1][MOUTH])
    assert apart < 28 and apart == pytest.approx(psnr(own[0][MOUTH], own[1][MOUTH]), abs=1)


def test_it_draws_all_that_an_avatar_may_have(odd_page, odd_output):
    """View-dependent colours, correctives and moved mouth Gaussians are those of `pose`; the last two do show."""
    model, motion = odd_output.frames.model, odd_output.motion
    for frame in (3, 24):
        own = (np.asarray(odd_output.frames[frame]) * 255).round().astype(np.uint8)
        assert psnr(screenshot(odd_page, frame), own) > 38
    drawn = lambda posed: to_uint8(  # noqa: E731
        model.render(posed, odd_output.frames.camera, odd_output.frames.background).images[0]
    )
    vertices = model.head(shape=model.shape[None], **motion[24:25].head_inputs()).vertices
    offsets = model.motion.mouth_offsets(motion.mouth_code[24:25], basis=model.mouth_basis())
    codes = model.expression_code(motion[24:25])
    for missing in ((None, codes), (offsets, None)):
        assert psnr(drawn(model.gaussians.pose(vertices, model.head.faces, *missing)), own) < 38


def test_it_turns_as_the_packages_camera_does(page, output, pipe):
    """Yaw and pitch mean what `EmoTaGModel.camera` means by them, up to what the view is turned about."""
    page.evaluate("emotag.facts.pivot = [0, 0, 0]")
    shot = screenshot(page, 8, yaw=0.4, pitch=-0.2)
    camera = pipe.model.camera(SIZE, yaw=0, pitch=0).orbit(0.4, -0.2)
    background = make_background(None, SIZE, SIZE, pipe.model.config.backdrop)
    picture = pipe.model.render(pipe.model.pose(output.motion[8:9]), camera, background).images[0]
    assert psnr(shot, to_uint8(picture)) > 40
    assert psnr(screenshot(page, 8), shot) < 25


def test_a_person_plays_it(page, output):
    """Play moves the frames along with the sound and stops at the end; dragging turns, the button turns back; a plain
    background takes the picture's place."""
    page.evaluate("emotag.show(0)")
    page.click("#play")
    wait(page, "document.getElementById('sound').ended")
    wait(page, f"emotag.frame === {len(output.motion) - 1}")
    assert page.inner_text("#play") == "Play" and page.evaluate("document.getElementById('sound').duration") > 1.2
    box = page.locator("#view").bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] + 80, middle[1], steps=2)
    page.mouse.up()
    assert page.evaluate("emotag.view.yaw") < -0.1
    page.click("#front")
    assert page.evaluate("emotag.view.yaw") == 0
    page.select_option("#backdrop", "#ffffff")
    assert screenshot(page, 0)[4, 4].tolist() == [255, 255, 255]
    page.select_option("#backdrop", "own")
    page.locator("#seek").fill("20")
    assert page.evaluate("emotag.frame") == 20


def test_it_fits_a_phone(page):
    """Nothing hangs over the side of a narrow screen."""
    page.evaluate("emotag.show(0)")
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.set_viewport_size({"width": 900, "height": 800})
