"""IPA symbols to mouth shapes in the project's motion space, blended over time by dominance (Cohen and Massaro, 1993).

In: phonemes with start times. Out, at 25 frames per second: targets `[T, C]` over `CHANNELS`, viseme class `[T]` and
the closure mask `[T]` of p, b, m. Jaw opening is in radians, everything else a coefficient of a named direction (left
and right alike), and lips at rest are closed, jaw 0.
"""

from __future__ import annotations

import unicodedata

import numpy as np

from emotag_hf.constants import EXPRESSION_NAMES

FPS = 25
CHANNELS = (
    "jaw", "funnel", "pucker", "smile", "stretch", "lowerDown", "upperUp", "rollLower", "rollUpper", "press", "close",
    "shrugUpper", "tongueUp", "tongueOut",
)  # fmt: skip
# Which named directions each channel drives ("jaw" is jaw_pose[0]).
DIRECTIONS = {
    "funnel": ("mouthFunnel",), "pucker": ("mouthPucker",), "smile": ("mouthSmile_L", "mouthSmile_R"),
    "stretch": ("mouthStretch_L", "mouthStretch_R"), "lowerDown": ("mouthLowerDown_L", "mouthLowerDown_R"),
    "upperUp": ("mouthUpperUp_L", "mouthUpperUp_R"), "rollLower": ("mouthRollLower",),
    "rollUpper": ("mouthRollUpper",), "press": ("mouthPress_L", "mouthPress_R"), "close": ("mouthClose",),
    "shrugUpper": ("mouthShrugUpper",), "tongueUp": ("tongueUp",), "tongueOut": ("tongueOut",),
}  # fmt: skip

# Seconds that are added to the leads of the table: in GRID's clips lips are closest 0.6 frames before the middle of p,
# b and m (151 of them, aligned by pocketsphinx), which is also the zero of all lags.
_LEAD = -0.016

# name: (viseme class of modeling_motion.VISEMES, shape, dominance of jaw and lips, tau in s, lead in s).
# Lead: the mouth is ahead of the sound, most where it opens; a closure is seen when the sound stops.
_SHAPES = {
    "a": ("aa", dict(jaw=0.22, lowerDown=0.28, upperUp=0.12, stretch=0.08), 1.0, 0.065, 0.07),
    "æ": ("aa", dict(jaw=0.20, lowerDown=0.32, upperUp=0.18, stretch=0.25, smile=0.10), 1.0, 0.065, 0.07),
    "ʌ": ("aa", dict(jaw=0.165, lowerDown=0.22, upperUp=0.10, stretch=0.05), 1.0, 0.06, 0.07),
    "e": ("eh", dict(jaw=0.135, lowerDown=0.26, upperUp=0.14, stretch=0.22, smile=0.16), 1.0, 0.06, 0.07),
    "ə": ("schwa", dict(jaw=0.105, lowerDown=0.14, upperUp=0.06, stretch=0.04), 0.6, 0.05, 0.07),
    "i": ("ee", dict(jaw=0.060, lowerDown=0.24, upperUp=0.16, stretch=0.32, smile=0.34), 1.1, 0.06, 0.07),
    "ɪ": ("ee", dict(jaw=0.085, lowerDown=0.22, upperUp=0.12, stretch=0.22, smile=0.20), 0.9, 0.055, 0.07),
    "ɨ": ("ee", dict(jaw=0.075, lowerDown=0.24, upperUp=0.12, stretch=0.22, smile=0.10), 0.9, 0.055, 0.07),
    "ɔ": ("oh", dict(jaw=0.175, funnel=0.30, lowerDown=0.12), 1.0, 0.065, 0.07),
    "o": ("oo", dict(jaw=0.125, funnel=0.36, pucker=0.30), 1.0, 0.065, 0.07),
    "u": ("uu", dict(jaw=0.060, funnel=0.21, pucker=0.80), 1.0, 0.065, 0.07),
    "ʊ": ("uu", dict(jaw=0.080, funnel=0.25, pucker=0.50), 1.0, 0.06, 0.07),
    "y": ("uu", dict(jaw=0.055, funnel=0.24, pucker=0.70, upperUp=0.05), 1.0, 0.065, 0.07),
    "ø": ("oo", dict(jaw=0.105, funnel=0.36, pucker=0.32), 1.0, 0.065, 0.07),
    "ɜ": ("schwa", dict(jaw=0.110, funnel=0.13, pucker=0.10, lowerDown=0.12), 0.9, 0.06, 0.07),
    "w": ("uu", dict(jaw=0.035, funnel=0.12, pucker=0.90), 1.4, 0.05, 0.07),
    "j": ("ee", dict(jaw=0.055, lowerDown=0.2, upperUp=0.12, stretch=0.28, smile=0.26), 0.7, 0.045, 0.07),
    "r": ("rr", dict(jaw=0.070, funnel=0.18, pucker=0.26, lowerDown=0.08), 0.6, 0.045, 0.065),
    "ɾ": ("rr", dict(jaw=0.075, lowerDown=0.12, tongueUp=0.5), 0.45, 0.035, 0.06),
    "t": ("dd", dict(jaw=0.050, lowerDown=0.16, upperUp=0.06, tongueUp=0.55, stretch=0.08), 0.6, 0.04, 0.06),
    "n": ("dd", dict(jaw=0.060, lowerDown=0.16, upperUp=0.05, tongueUp=0.55, stretch=0.06), 0.6, 0.04, 0.06),
    "l": ("ll", dict(jaw=0.090, lowerDown=0.18, upperUp=0.05, tongueUp=0.75), 0.6, 0.045, 0.065),
    "s": ("ss", dict(jaw=0.022, lowerDown=0.34, upperUp=0.18, stretch=0.26, smile=0.12), 1.3, 0.04, 0.06),
    "ʃ": (
        "sh", dict(jaw=0.035, funnel=0.37, pucker=0.18, lowerDown=0.20, upperUp=0.22, shrugUpper=0.12),
        1.4, 0.045, 0.07,
    ),
    "θ": ("th", dict(jaw=0.060, lowerDown=0.18, upperUp=0.10, tongueOut=0.35, stretch=0.08), 1.3, 0.04, 0.06),
    "f": ("ff", dict(jaw=0.030, rollLower=0.62, upperUp=0.26, shrugUpper=0.10), 4.0, 0.04, 0.05),
    "p": ("pp", dict(jaw=0.000, press=0.50, close=0.05, rollLower=0.16, rollUpper=0.16), 8.0, 0.028, 0.04),
    "k": ("kk", dict(jaw=0.085, lowerDown=0.16, upperUp=0.06), 0.3, 0.04, 0.06),
    "h": ("kk", dict(jaw=0.110, lowerDown=0.16, upperUp=0.06), 0.2, 0.04, 0.07),
    "sil": ("sil", dict(), 1.0, 0.08, 0.0),
}  # fmt: skip
_ALIASES = {
    "a": "aɑäɐ̯", "æ": "æ", "ʌ": "ʌɐ", "e": "eɛ", "ə": "əɘɤ", "i": "i", "ɪ": "ɪᵻ", "ɨ": "ɨɯ", "ɔ": "ɔɒ", "o": "o",
    "u": "u", "ʊ": "ʊ", "y": "yʏʉ", "ø": "øœ", "ɜ": "ɜɚɝɵ", "w": "wʍɥ", "j": "jʎʝɟ", "r": "ɹrʀʁɻ", "ɾ": "ɾɽ",
    "t": "tdʈɖ", "n": "nɲɳɴ", "l": "lɫɭɬ", "s": "szɕʑ", "ʃ": "ʃʒʂʐɧ", "θ": "θð", "f": "fvʋɱ", "p": "pbmβɸ",
    "k": "kɡgŋxɣqɢχcç", "h": "hɦʔħ",
}  # fmt: skip
SHAPE_OF = {symbol: shape for shape, symbols in _ALIASES.items() for symbol in symbols}
_CLOSED = 0.09  # longest closure of the lips for a sound behind which they open, s
_VOICELESS_STOPS = set("ptkqcʈ")
_ROUND = {"ɔ", "o", "u", "ʊ", "y", "ø", "w", "ʃ"}
_VOWEL_SHAPES = {"a", "æ", "ʌ", "e", "ə", "i", "ɪ", "ɨ", "ɔ", "o", "u", "ʊ", "y", "ø", "ɜ"}
_LIP_WIDTH = [CHANNELS.index(c) for c in ("funnel", "pucker", "smile", "stretch")]
_TONGUE = [CHANNELS.index(c) for c in ("tongueUp", "tongueOut")]


def shapes_of(symbol: str) -> list[str]:
    """The shapes that one IPA symbol runs through: a diphthong has two, an affricate its fricative, "" is silence."""
    plain = [c for c in unicodedata.normalize("NFD", symbol) if c in SHAPE_OF]
    if not plain:
        return ["sil"] if not symbol.strip("ːˈˌ ") else []
    found = [SHAPE_OF[c] for c in plain]
    if len(found) > 1 and found[0] == "t" and found[1] in ("s", "ʃ"):
        return found[1:2]
    return found[:2]


def sound_parts(sound: str, start: float, end: float, opening: str = "pb") -> list[tuple[str, float, float]]:
    """`(shape, start, end)` of one IPA sound, "" for silence. Behind a long one of `opening` the lips are open again;
    in the m of natural speech they stay closed."""
    shapes = shapes_of(sound)
    if shapes == ["p"] and sound[0] in opening and end - start > _CLOSED:
        return [("p", start, start + _CLOSED), ("ə", start + _CLOSED, end)]
    step = (end - start) / max(1, len(shapes))
    parts = [(shape, start + i * step, start + (i + 1) * step) for i, shape in enumerate(shapes)]
    return [part for part in parts if part[2] > part[1]]


def segments(phonemes: list[tuple[str, float]], duration: float) -> list[tuple[str, float, float]]:
    """`(shape, start, end)` in seconds over the whole recording, silences included."""
    result: list[list] = [["sil", 0.0, 0.0]]
    for index, (symbol, start) in enumerate(phonemes):
        end = phonemes[index + 1][1] if index + 1 < len(phonemes) else duration
        shapes = shapes_of(symbol)
        if not shapes or end - start < 0.004:
            continue
        if symbol[:1] in _VOICELESS_STOPS:
            # espeak-ng dates a voiceless stop by its burst; the lips or tongue closed about 45 ms earlier.
            start = max(start - 0.045, result[-1][1] + 0.02)
            if shapes == ["p"]:
                end = min(end, start + 0.07)
        result[-1][2] = start
        step = (end - start) / len(shapes)
        result += [[s, start + i * step, start + (i + 1) * step] for i, s in enumerate(shapes)]
    result.append(["sil", result[-1][2], duration])
    return [tuple(s) for s in result if s[2] > s[1]]


def _weights(shape: str) -> np.ndarray:
    """Dominance per channel `[C]`: how strongly this sound insists on its own value there."""
    weights = np.full(len(CHANNELS), _SHAPES[shape][2])
    if shape in _ROUND:
        weights[_LIP_WIDTH] = 2.5
    elif shape not in _VOWEL_SHAPES and shape not in ("sil", "j", "s"):
        weights[_LIP_WIDTH] *= 0.5  # most consonants take the lip width of their vowels
    weights[_TONGUE] = {"l": 3.0, "t": 2.5, "n": 2.5, "θ": 4.0, "ɾ": 2.5}.get(shape, 0.8)
    return weights


def targets(phonemes: list[tuple[str, float]], duration: float):
    """`targets_of` the `segments` of phonemes with start times."""
    return targets_of(segments(phonemes, duration), duration)


def lead(shape: str) -> float:
    """Seconds by which the mouth is ahead of a sound of this shape."""
    return _SHAPES[shape][4] + _LEAD


def viseme_of(shape: str) -> str:
    """The class of `modeling_motion.VISEMES` of a shape."""
    return _SHAPES[shape][0]


def targets_of(parts: list[tuple[str, float, float]], duration: float):
    """Targets `[T, C]` float32, viseme names `[T]` and closure mask `[T]` bool, with T = ceil(duration * 25).

    Args:
        parts: `(shape, start, end)` in seconds, one after another over the whole recording.
    """
    frames = max(1, int(np.ceil(round(duration * FPS, 6))))
    oversample = 5
    times = np.arange(frames * oversample) / (FPS * oversample)
    centres, halves, taus = [], [], []
    for shape, start, end in parts:
        half = 0.33 * (end - start)
        if shape == "sil":  # the mouth shuts a moment after speech and opens a moment before
            start, end = start + 0.10 * (start > 0), end - 0.12 * (end < duration - 1e-6)
            half = max(0.0, 0.5 * (end - start))
        centres.append((start + end) / 2 - lead(shape))
        halves.append(half)
        taus.append(_SHAPES[shape][3])
    centres, halves, taus = map(np.asarray, (centres, halves, taus))
    values = np.array([[_SHAPES[s][1].get(c, 0.0) for c in CHANNELS] for s, _, _ in parts])
    weights = np.array([_weights(s) for s, _, _ in parts])
    # Closures decay quickly (a Gaussian), else a weight of 8 would flatten neighbouring vowels.
    powers = np.array([2.0 if s in ("p", "f") else 1.4 for s, _, _ in parts])
    shape_names = [s for s, _, _ in parts]

    def blend(at: np.ndarray):
        distance = np.maximum(0, np.abs(at[:, None] - centres) - halves)
        dominance = np.exp(-((distance / taus) ** powers)) + 1e-9
        return dominance @ (weights * values) / (dominance @ weights), dominance

    fine, dominance = blend(times)
    out = fine.reshape(frames, oversample, -1)[:, 0].copy()
    strongest = np.argmax(dominance * weights[:, 0].clip(0.5, 3.0), 1).reshape(frames, oversample)[:, 0]
    visemes = [viseme_of(shape_names[i]) for i in strongest]
    closed = np.zeros(frames, bool)
    # A closure may fall between two frames; the nearest frame then shows it, or p, b, m would not be seen.
    for centre, shape in zip(centres, shape_names, strict=True):
        if shape == "p":
            frame = int(np.clip(round(centre * FPS), 0, frames - 1))
            out[frame], closed[frame], visemes[frame] = blend(np.array([centre]))[0][0], True, "pp"
    # Where the jaw does not quite get up, the lips still meet: mouthClose follows the jaw.
    jaw, close, press = (CHANNELS.index(c) for c in ("jaw", "close", "press"))
    shut = np.clip(out[:, press] / _SHAPES["p"][1]["press"], 0, 1)
    out[:, close] = shut * np.maximum(out[:, close], out[:, jaw] / 0.35)
    return out.astype(np.float32), visemes, closed


def face_motion(values: np.ndarray) -> np.ndarray:
    """Targets `[T, C]` over `CHANNELS` as face motion `[T, 53]`: 50 expression coefficients, then the jaw."""
    face = np.zeros((len(values), len(EXPRESSION_NAMES) + 3), values.dtype)
    for column, channel in enumerate(CHANNELS):
        names = DIRECTIONS.get(channel)
        rows = [len(EXPRESSION_NAMES)] if names is None else [EXPRESSION_NAMES.index(n) for n in names]
        face[:, rows] = values[:, column : column + 1]
    return face
