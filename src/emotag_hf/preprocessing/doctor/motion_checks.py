"""The doctor's checks of tracking and of the movement of head, mouth and the rest of the face.

In: `Evidence` with a fitted head. Out: `Check`s. Every threshold is a constant with its reason beside it.
"""

from __future__ import annotations

import numpy as np

from ...constants import ACTION_UNITS, MOTION_FPS
from .evidence import Evidence
from .report import GREEN, GREY, RED, YELLOW, Check, graded, percent, spread_out, worse

GOOD_ERROR, MAX_ERROR = 4.0, 9.0  # px of 512, median error on held-out landmarks
GOOD_FAILED, MAX_FAILED = 0.05, 0.40  # share of the frames with a face whose fit failed
WEAKEST = 0.7  # least slope of `amplitude`; the tracker reaches 0.85 to 1.15 on clear clips
MIN_YAW_SPAN, MIN_PITCH_SPAN = 4.0, 4.0  # degrees; if both are less, the head is seen from one side only
GOOD_TURN, MAX_TURN = 25.0, 50.0  # degrees of median yaw: half of the mouth is foreshortened, then hidden
PROFILE, MAX_PROFILE = 60.0, 0.20  # degrees of yaw from which the far side's landmarks are unreliable; share of frames
# Shapes of the mouth: opening (edges of five bins from shut to wide open) by width (edges of five bins around the
# median, from rounded to spread), both in distances between the outer eye corners.
OPENINGS, WIDTHS = (0.04, 0.07, 0.10, 0.14), (-0.04, -0.015, 0.015, 0.03)
GOOD_SHAPES = 10  # of 25; five seconds of speech fill 10 to 20
MIN_OPENING = 0.05  # span of the opening: speech has 0.13 or more, a mouth that stays shut 0.02
SEEN = 2  # least number of frames (80 ms) in which a mouth shape must appear
BLINK_EVERY = 10.0  # seconds; people blink every 2 to 6 s, and less often when they read aloud
BLINK_DEPTH, BLINK_LONGEST = 0.3, 12  # closure above the median, and frames; longer ones are looks down
GOOD_EXPRESSION = 5.0  # sum of the ranges of eight action units (0..5 each) that speech hardly moves
EXPRESSION_UNITS = ("AU01", "AU02", "AU04", "AU06", "AU07", "AU09", "AU12", "AU15")


def check_tracking(e: Evidence) -> Check:
    found, valid = e.landmarks.found, e.track.valid.numpy()
    error = float(np.nanmedian(e.track.held_out_error.numpy()))
    failed = float((found & ~valid).sum() / max(1, found.sum()))
    lost = graded(failed, GOOD_FAILED, MAX_FAILED)
    light = worse(graded(error, GOOD_ERROR, MAX_ERROR), lost)
    finding = f"The fitted head model is off by {error:.1f} pixels (median, in a 512-pixel picture)."
    if lost != GREEN:
        finding += f" In {percent(failed)} of the frames the fit fails."
    advice = "" if light == GREEN else "Face the camera, move more slowly, and keep hands and objects off the face."
    frames = spread_out(np.flatnonzero(found & ~valid))
    return Check("tracking", "movement", error, "px of 512", light, finding, advice, frames)


def check_strength(e: Evidence) -> Check | None:
    """Amplitude of the fitted head's expressions relative to the landmarks: too small ones make a weak avatar."""
    if e.amplitudes is None:
        return None
    slopes = {name: [a.slope for a in sides if a.moves] for name, sides in e.amplitudes.items()}
    slopes = {name: sum(found) / len(found) for name, found in slopes.items() if found}
    if not slopes:
        return Check(
            "strength", "movement", None, "", GREY, "The face moves too little to measure the model's amplitude."
        )
    furthest = max(slopes, key=lambda name: abs(np.log(max(slopes[name], 0.01))))
    value = slopes[furthest]
    light = GREEN if WEAKEST <= value <= 1 / WEAKEST else YELLOW
    finding = (
        f"Mouth, lids and brows of the head model move {min(slopes.values()):.2f} to {max(slopes.values()):.2f} times"
    )
    finding += f" as far as the landmarks in the picture (worst, {furthest}: {value:.2f})."
    advice = "" if light == GREEN else "Face the camera, and keep hair and glasses away from the brows."
    return Check("strength", "movement", value, "times", light, finding, advice)


def check_head(e: Evidence) -> Check:
    there = np.flatnonzero(np.isfinite(e.angles[:, 0]))
    if not len(there):
        return Check("head movement", "movement", None, "", GREY, "The head's movement could not be measured.")
    yaw, pitch = e.angles[there, 0], e.angles[there, 1]
    low, high = np.percentile(e.angles[there], (2, 98), axis=0)
    span = high - low
    turn, profile = abs(float(np.median(yaw))), float((np.abs(yaw) > PROFILE).mean())
    light, advice = graded(turn, GOOD_TURN, MAX_TURN), ""
    finding = f"The head turns over {span[0]:.0f} degrees from left to right and {span[1]:.0f} up and down."
    if light != GREEN:
        finding = f"Most of the time the head is turned away by {turn:.0f} degrees."
        advice = "Face the camera: otherwise half of the mouth cannot be seen."
    elif profile > MAX_PROFILE:
        light, finding = YELLOW, f"In {percent(profile)} of the frames the face is seen from the side."
        advice = "Face the camera most of the time."
    elif span[0] < MIN_YAW_SPAN and span[1] < MIN_PITCH_SPAN:
        light, finding = YELLOW, "The head hardly moves, so that it is seen from one side only."
        advice = "Before talking, turn slowly to the left and right and nod; 15 degrees are enough."
    ends = {int(there[k]) for k in (yaw.argmin(), yaw.argmax(), pitch.argmin(), pitch.argmax())}
    return Check("head movement", "movement", float(span[0]), "degrees", light, finding, advice, tuple(sorted(ends)))


def mouth_shapes(mouth: np.ndarray) -> np.ndarray:
    """How many frames of `[T, 2]` (opening, width) show each shape `[5, 5]`: shut to wide open, rounded to spread."""
    mouth = mouth[np.isfinite(mouth).all(1)]
    counts = np.zeros((len(OPENINGS) + 1, len(WIDTHS) + 1), int)
    if len(mouth):
        columns = np.digitize(mouth[:, 1] - np.median(mouth[:, 1]), WIDTHS)
        np.add.at(counts, (np.digitize(mouth[:, 0], OPENINGS), columns), 1)
    return counts


def check_mouth(e: Evidence) -> Check:
    counts = mouth_shapes(e.mouth)
    number = int((counts >= SEEN).sum())
    seen = {
        "shut": counts[0], "wide open": counts[-1], "rounded": counts[:, 0], "spread": counts[:, -1],
    }  # fmt: skip
    missing = [name for name, some in seen.items() if some.sum() < SEEN]
    there = np.flatnonzero(np.isfinite(e.mouth).all(1))
    opening, width = e.mouth[there, 0], e.mouth[there, 1]
    extremes = (opening.argmin(), opening.argmax(), width.argmin(), width.argmax())
    frames = tuple(dict.fromkeys(int(there[k]) for k in extremes))
    span = float(np.percentile(opening, 98) - np.percentile(opening, 2))
    advice = (
        'Read aloud and clearly: "My baby and I would show you five blue boats, if you ask for more." In it the lips '
        "shut (m, b), open wide (ah), round (oo) and spread (ee)."
    )
    if span < MIN_OPENING:
        finding = "The mouth hardly opens: the person does not seem to talk."
        return Check("mouth shapes", "movement", number, f"of {counts.size}", RED, finding, advice, frames)
    finding = f"{number} of {counts.size} mouth shapes appear"
    if missing:
        finding += f", but never {' or '.join(missing)}."
    else:
        finding += ", from shut to wide open and from rounded to spread."
    light = YELLOW if missing or number < GOOD_SHAPES else GREEN
    advice = advice if light == YELLOW else ""
    return Check("mouth shapes", "movement", number, f"of {counts.size}", light, finding, advice, frames)


def check_expression(e: Evidence) -> Check | None:
    if e.action_units is None or not e.track.valid.any():
        return None
    units = e.action_units[e.track.valid.numpy()][:, [ACTION_UNITS.index(name) for name in EXPRESSION_UNITS]]
    span = float((np.percentile(units, 98, axis=0) - np.percentile(units, 2, axis=0)).sum())
    unit = f"of {5 * len(EXPRESSION_UNITS)}"
    if span >= GOOD_EXPRESSION:
        return Check("expression", "movement", span, unit, GREEN, "Brows, cheeks and the corners of the mouth move.")
    return Check(
        "expression", "movement", span, unit, YELLOW, "Apart from talking, the face hardly moves.",
        "Emotions will look generic. To record this person's own, smile, frown and raise the brows once.",
    )  # fmt: skip


def find_blinks(eyelids: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Frame numbers of blinks in the closures `[T, 2]`: the most closed frame of each."""
    if not valid.any():
        return np.zeros(0, int)
    closure = np.where(valid, eyelids.mean(1), 0.0)
    shut = closure > np.median(closure[valid]) + BLINK_DEPTH
    edges = np.flatnonzero(np.diff(np.concatenate([[0], shut.astype(int), [0]])))
    runs = zip(edges[::2], edges[1::2], strict=True)
    return np.array([a + int(closure[a:b].argmax()) for a, b in runs if b - a <= BLINK_LONGEST], dtype=int)


def check_blinks(e: Evidence) -> Check:
    valid = e.track.valid.numpy()
    blinks = find_blinks(e.track.motion.eyelids.numpy(), valid)
    number, seconds = len(blinks), float(valid.sum()) / MOTION_FPS
    if number:
        finding = "The eyes blink once." if number == 1 else f"The eyes blink {number} times."
        return Check("blinks", "movement", number, "blinks", GREEN, finding, "", spread_out(blinks))
    if seconds < BLINK_EVERY:
        return Check("blinks", "movement", 0, "blinks", GREEN, "No blink, which is normal in such a short clip.")
    return Check(
        "blinks", "movement", 0, "blinks", YELLOW, f"No blink in {seconds:.0f} s: the clip never shows shut lids.",
        "Blink now and then, so that shut lids look like this person's.",
    )  # fmt: skip


MOTION_CHECKS = (check_tracking, check_strength, check_head, check_mouth, check_expression, check_blinks)
