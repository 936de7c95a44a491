"""Groups of MediaPipe's 468 landmarks that the fit treats separately. In: nothing. Out: landmark indices.

Left and right are the person's; in a pair of both sides the right one comes first.
"""

from __future__ import annotations

# The face's outline: these points slide along it as the head turns.
OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
# Opposite points of the inner lips and of the lids; the gap between them gets a residual of its own.
LIP_PAIRS = ((13, 14), (82, 87), (312, 317), (81, 178), (311, 402), (80, 88), (310, 318), (191, 95), (415, 324))
LID_PAIRS = (
    (159, 145), (160, 144), (158, 153), (161, 163), (157, 154),
    (386, 374), (385, 380), (387, 373), (388, 390), (384, 381),
)  # fmt: skip
TOUCHING = LIP_PAIRS + LID_PAIRS
EYE_CORNERS = (33, 263)  # outer corners; other distances are divided by their distance

# Pairs of landmarks whose distance changes with expression, with relative weights of their residuals. Without them a
# fit with a small mean error over the whole face shows only two thirds of a smile. Neighbours replace held-out points.
DISTANCES = (
    *(((a, b), 1.0) for a, b in ((76, 306), (62, 292), (78, 308), (57, 287))),  # the mouth's width
    *(((a, b), 2.0) for a, b in ((0, 2), (37, 97), (39, 98), (269, 327))),  # the upper lip under the nose
    *(((a, b), 5.0) for a, b in ((76, 33), (306, 263), (78, 33), (308, 263), (62, 133), (292, 362))),  # corners, eyes
    *(((a, b), 1.0) for a, b in ((17, 200), (200, 168), (152, 168))),  # the chin
    # Brows: mostly from the inner corners of the eyes, because distances to the outer ones lower r of AU02.
    *(((a, b), 1.5) for a, b in ((52, 133), (282, 362))),  # middle
    *(((a, b), 1.0) for a, b in ((52, 33), (282, 263))),
    *(((a, b), 2.0) for a, b in ((55, 133), (66, 133), (285, 362), (296, 362))),  # inner
    *(((a, b), 0.7) for a, b in ((46, 133), (276, 362))),  # outer
    *(((a, b), 2.5) for a, b in ((55, 285), (66, 296))),  # between them
)

# Held-out landmarks, spread over the face: never used in a fit, only to measure its error.
HELD_OUT = tuple(i for i in range(468) if i % 8 == 3 and i not in {j for pair in TOUCHING for j in pair})

__all__ = ["DISTANCES", "EYE_CORNERS", "HELD_OUT", "LID_PAIRS", "LIP_PAIRS", "OVAL", "TOUCHING"]
