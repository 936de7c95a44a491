"""The doctor's checks of the picture and of the face in it.

In: `Evidence`, and `Looks` at some frames. Out: `Check`s. Every threshold is a constant with its reason beside it.
"""

from __future__ import annotations

import numpy as np

from ...constants import MOTION_FPS
from .evidence import Evidence, Looks
from .report import GREEN, RED, YELLOW, Check, graded, percent, spread_out

MIN_SECONDS, GOOD_SECONDS = 2.0, 4.5  # a sentence takes 2 s or more; METHOD 1 adapts on about 5 s
MIN_FPS, GOOD_FPS = 12.0, 23.0  # lips close for about 80 ms: 12 fps misses half of these moments, 24 fps few
MAX_REPEATED = 0.15  # share of repeated frames; with more, the camera's frame rate was below the file's
GOOD_SIDE = 360  # px of the shorter side; smaller files are usually strongly compressed, too
# A cut is a lasting change of the picture (mean over 16 x 9 tiles, of 255) together with a jump of the face (in eye
# distances), or a change that is large enough without a jump. Clips without cuts stay below 12, even when the head is
# shaken; cuts have 25 to 60.
CUT_CHANGE, CUT_JUMP, CUT_ALONE = 12.0, 0.5, 25.0
CUT_ELSEWHERE = 35.0  # of 255, mean over the picture: another scene, probably with another person
CUT_LASTS, CUT_FLASH = 5, 3  # frames: changes within the first are one cut; shorter ones than the second are flashes

GOOD_FOUND, MIN_FOUND = 0.98, 0.75  # share of frames with a face; one of five seconds may be missing
MAX_OTHER_FACES = 0.02  # share of frames with a second face; with more, the faces may be confused
# px from forehead to chin in the source. An avatar shows it about 260 px high in 512, which looks sharp from 200.
# At 80 the lips are 8 px high, and landmark errors are as large as lip movements.
GOOD_FACE, MIN_FACE = 200.0, 80.0
GOOD_INSIDE, MIN_INSIDE = 0.98, 0.50  # share of frames with the whole face in the picture
# See Looks.sharpness: 0.22 to 0.8 in real clips. A blur of 1 px (1 % of the face) brings it to 0.09 .. 0.28, one of
# 2 px to 0.06 .. 0.13.
GOOD_SHARPNESS, MIN_SHARPNESS = 0.20, 0.08
MAX_BLURRED = 0.25  # share of frames with less than half the median sharpness (motion blur)
# The brightest 1 % of a face are eyes, teeth and highlights, so this does not depend on the skin's colour.
GOOD_BRIGHTEST, MIN_BRIGHTEST = 90.0, 45.0
MAX_BURNT = 0.05  # overexposed share of the face (250 of 255 or more), whose colours are lost
GOOD_STEADY = 0.25  # relative change of the face's brightness; small head movements cause up to 0.18
# Share of the lower face's patches with an unusual colour from which a frame counts as covered; share of such frames.
COVERED, MAX_COVERED = 0.35, 0.05


def check_file(e: Evidence) -> Check | None:
    """Reports warnings of the video reader; None without any."""
    if not e.file_warnings:
        return None
    finding = " ".join(f"{text[0].upper()}{text[1:].rstrip('.')}." for text in e.file_warnings)
    advice = "Copy or export the file again; the part that could be read is used."
    if e.is_prepared:
        advice = "Prepare the clip again, from a better recording if necessary."
    return Check("file", "picture", None, "", YELLOW, finding, advice)


def check_length(e: Evidence) -> Check | None:
    if not e.landmarks.found.any():
        return None
    seconds = int(e.landmarks.found.sum()) / MOTION_FPS
    light = graded(seconds, GOOD_SECONDS, MIN_SECONDS)
    of = f" in the first {e.seconds:.0f} s of {e.duration:.0f} s" if e.duration > e.seconds + 1 else ""
    return Check(
        "length", "picture", seconds, "s", light, f"The face can be seen for {seconds:.1f} s{of}.",
        "" if light == GREEN else "Record at least 5 s of talking; 10 to 30 s show more mouth shapes.",
    )  # fmt: skip


def check_resolution(e: Evidence) -> Check:
    side = min(e.width, e.height)
    light = GREEN if side >= GOOD_SIDE else YELLOW
    return Check(
        "resolution", "picture", side, "px", light, f"The picture has {e.width}x{e.height} pixels.",
        "" if light == GREEN else "Record in 720p or more, and use the original file: messengers shrink videos.",
    )  # fmt: skip


def check_frame_rate(e: Evidence) -> Check | None:
    if e.is_prepared:
        return None
    rate = f"{e.fps:.4g}"
    light = graded(e.fps, GOOD_FPS, MIN_FPS)
    if light != GREEN:
        advice = "Record at 25 or 30 frames per second. Cameras lower the frame rate in poor light, so add light."
        return Check("frame rate", "picture", e.fps, "fps", light, f"The frame rate is {rate} fps.", advice)
    repeated = np.flatnonzero((e.scenes[1:] == e.scenes[:-1]).all((1, 2, 3))) + 1
    share = len(repeated) / max(1, len(e.scenes))
    if share > MAX_REPEATED:
        finding = f"The frame rate is {rate} fps, but {percent(share)} of the frames repeat the one before."
        advice = "The camera was slower than the file's rate. Add light, and close other programs while recording."
        return Check("frame rate", "picture", e.fps, "fps", YELLOW, finding, advice)
    if e.is_variable:
        finding = f"The frame rate is variable, about {rate} fps. It is resampled to a constant one."
        return Check("frame rate", "picture", e.fps, "fps", GREEN, finding)
    return Check("frame rate", "picture", e.fps, "fps", GREEN, f"The frame rate is {rate} fps.")


def check_still(e: Evidence) -> Check:
    return Check(
        "moving picture", "picture", None, "", RED,
        "Nothing moves: all frames show the same picture. A single photo is not supported, because the shape of a head "
        "and how its face moves show only over several frames.", "Record a video of the person talking.", (0,), True,
    )  # fmt: skip


def find_cuts(e: Evidence) -> np.ndarray:
    """Frame numbers of cuts: the first frame of each new shot."""
    if len(e.scenes) < 2:
        return np.zeros(0, int)
    scenes = e.scenes.astype(np.float32)
    at = np.arange(1, len(scenes))
    before = (scenes[at - 1], scenes[np.maximum(at - 1 - CUT_FLASH, 0)])  # two, because a flash is no cut ...
    after = (scenes[at], scenes[np.minimum(at + CUT_FLASH, len(scenes) - 1)])  # ... and gone before long
    change = np.min([np.abs(b - a).mean((1, 2, 3)) for a in before for b in after], axis=0)
    points = e.landmarks.points[:, (33, 263, 1, 10, 152), :2].astype(np.float64)
    eyes = np.linalg.norm(points[:, 0] - points[:, 1], axis=1)
    jump = np.linalg.norm(np.diff(points.mean(1), axis=0), axis=1) / np.minimum(eyes[1:], eyes[:-1])
    moved = (e.landmarks.found[1:] != e.landmarks.found[:-1]) | (np.nan_to_num(jump) > CUT_JUMP)
    needed = np.maximum(np.where(moved, CUT_CHANGE, CUT_ALONE), 5 * float(np.median(change)))
    cuts = np.flatnonzero(change > needed) + 1
    return cuts[np.diff(cuts, prepend=-CUT_LASTS) >= CUT_LASTS]


def check_cuts(e: Evidence) -> Check:
    cuts = find_cuts(e)
    if not len(cuts):
        return Check("cuts", "picture", 0, "cuts", GREEN, "The clip is one continuous shot.")
    when = ", ".join(f"{cut / MOTION_FPS:.1f} s" for cut in cuts[:4]) + (" ..." if len(cuts) > 4 else "")
    scenes = e.scenes.astype(np.float32)
    other = np.abs(scenes[cuts] - scenes[cuts - 1]).mean((1, 2, 3)).max() > CUT_ELSEWHERE
    finding = f"The picture {'changes to another scene' if other else 'seems to jump to another shot'} at {when}."
    return Check(
        "cuts", "picture", len(cuts), "cuts", RED if other else YELLOW, finding,
        "Trim the file to one continuous shot, with the same camera, light and place.",
        spread_out(np.unique(np.concatenate([cuts - 1, cuts]))), True,
    )  # fmt: skip


def check_found(e: Evidence) -> Check:
    found = e.landmarks.found
    share = float(found.mean()) if len(found) else 0.0
    missing = spread_out(np.flatnonzero(~found))
    light = graded(share, GOOD_FOUND, MIN_FOUND)
    if not found.any():
        advice = "Record a person who looks towards the camera, in good light. Drawings and animals are not found."
        finding = "No face was found in any frame."
        return Check("face found", "face", share, "share", RED, finding, advice, missing, True)
    if light == GREEN:
        always = "A face is found in every frame." if share == 1 else "A face is found in nearly every frame."
        return Check("face found", "face", share, "share", GREEN, always, "", missing, True)
    return Check(
        "face found", "face", share, "share", light, f"In {percent(1 - share)} of the frames no face is found.",
        "Stay in the picture, face the camera and keep the face free; or trim the file.", missing, True,
    )  # fmt: skip


def check_number(e: Evidence) -> Check | None:
    if e.is_prepared:
        return None
    several = e.landmarks.num_faces > 1
    share = float(several.mean()) if len(several) else 0.0
    if share <= MAX_OTHER_FACES:
        return Check("number of faces", "face", share, "share", GREEN, "Only one face is in the picture.")
    return Check(
        "number of faces", "face", share, "share", YELLOW,
        f"Up to {int(e.landmarks.num_faces.max())} faces are in the picture, in {percent(share)} of the frames. "
        "The largest is used unless you choose another.",
        "Record one person alone, or choose with --face.", spread_out(np.flatnonzero(several)), True,
    )  # fmt: skip


def check_size(e: Evidence) -> Check:
    points = e.landmarks.points[e.landmarks.found, :, :2]
    height = float(np.median(np.linalg.norm(points[:, 10] - points[:, 152], axis=1))) * e.pixel_scale
    light = graded(height, GOOD_FACE, MIN_FACE)
    return Check(
        "face size", "face", height, "px", light, f"From forehead to chin the face is {height:.0f} pixels high.",
        "" if light == GREEN else f"Come closer or raise the resolution; it needs {GOOD_FACE:.0f} pixels or more.",
    )  # fmt: skip


def check_framing(e: Evidence) -> Check:
    found = e.landmarks.found
    points = np.nan_to_num(e.landmarks.points[:, :468, :2], nan=-1.0)
    inside = ((points >= 0) & (points <= (e.landmarks.width, e.landmarks.height))).all((1, 2))
    share = float(inside[found].mean())
    light = graded(share, GOOD_INSIDE, MIN_INSIDE)
    if light == GREEN:
        return Check("framing", "face", share, "share", GREEN, "The whole face is in the picture.")
    return Check(
        "framing", "face", share, "share", light,
        f"In {percent(1 - share)} of the frames a part of the face is outside the picture.",
        "Leave room around the head, also while it moves.", spread_out(np.flatnonzero(found & ~inside)), True,
    )  # fmt: skip


def check_sharpness(looks: Looks) -> Check:
    value = float(np.median(looks.sharpness))
    light = graded(value, GOOD_SHARPNESS, MIN_SHARPNESS)
    if light != GREEN:
        finding = "The face is very blurred." if light == RED else "The face is a little blurred."
        advice = "Clean the lens, let the camera focus on the face, add light; no digital zoom, no beauty filter."
        return Check("sharpness", "face", value, "", light, finding, advice, spread_out(looks.index))
    blurred = looks.sharpness < 0.5 * value
    share = float(blurred.mean())
    if share > MAX_BLURRED:
        finding = f"The face is sharp, but in {percent(share)} of the frames it is blurred."
        advice = "Add light, so that the camera exposes for a shorter time, and move more slowly."
        return Check("sharpness", "face", value, "", YELLOW, finding, advice, spread_out(looks.index[blurred]))
    return Check("sharpness", "face", value, "", GREEN, "The face is sharp.")


def check_exposure(looks: Looks) -> Check:
    brightest, burnt = float(np.median(looks.brightest)), float(np.median(looks.burnt))
    light = graded(brightest, GOOD_BRIGHTEST, MIN_BRIGHTEST)
    if light != GREEN:
        finding = "The face is too dark to be seen well." if light == RED else "The face is dark."
        advice = "Light the face from the front: sit towards a window or a lamp, with none behind the head."
        return Check("exposure", "face", brightest, "of 255", light, finding, advice, spread_out(looks.index))
    if burnt > MAX_BURNT:
        finding = f"{percent(burnt)} of the face is overexposed (pure white). Its colours are lost."
        advice = "Use softer or less light, or lower the camera's exposure."
        return Check("exposure", "face", brightest, "of 255", YELLOW, finding, advice, spread_out(looks.index))
    return Check("exposure", "face", brightest, "of 255", GREEN, "The face is well lit.")


def check_steadiness(looks: Looks) -> Check:
    chosen = looks.facing if looks.facing.any() else np.ones(len(looks.index), bool)
    index, brightness = looks.index[chosen], looks.median[chosen]
    if len(brightness) >= 5:  # one odd frame does not count
        padded = np.pad(brightness, 2, mode="edge")
        brightness = np.median(np.lib.stride_tricks.sliding_window_view(padded, 5), 1)
    change = float((brightness.max() - brightness.min()) / max(float(np.median(brightness)), 1.0))
    if change <= GOOD_STEADY:
        return Check("steady light", "face", change, "relative", GREEN, "The light on the face stays the same.")
    ends = sorted({int(index[brightness.argmin()]), int(index[brightness.argmax()])})
    return Check(
        "steady light", "face", change, "relative", YELLOW,
        f"The brightness of the face changes by {percent(change)} within the clip.",
        "Lock the camera's exposure; avoid screens, passing clouds, and turning away from the lamp.", tuple(ends),
    )  # fmt: skip


def check_occlusion(looks: Looks) -> Check:
    """Detects unusual colours in the lower face, compared with the rest of the clip; not objects themselves."""
    covered = looks.covered >= COVERED
    share = float(covered.mean())
    if share <= MAX_COVERED:
        return Check("free mouth", "face", share, "share", GREEN, "Nothing seems to pass in front of the mouth.")
    return Check(
        "free mouth", "face", share, "share", YELLOW,
        f"Possibly something covers the lower face in {percent(share)} of the frames: a hand, a cup, a microphone.",
        "Look at these pictures. If so, record again with the mouth free.", spread_out(looks.index[covered]),
    )  # fmt: skip


PICTURE_CHECKS = (check_file, check_length, check_resolution, check_frame_rate, check_cuts, check_found)
STILL_CHECKS = (check_file, check_resolution, check_still)  # in place of those
FACE_CHECKS = (check_number, check_size, check_framing)  # only with a face
LOOK_CHECKS = (check_sharpness, check_exposure)
ONE_SHOT_CHECKS = (check_steadiness, check_occlusion)  # only without cuts, which change all colours
