"""The demo person: identity coefficients, camera and background, chosen by eye; not the likeness of a real person."""

NAME = "Remy (synthetic demo person)"
IDENTITY: dict[int, float] = {0: -0.9, 2: -0.7, 8: 0.8, 9: -0.6}  # direction -> standard deviations
CAMERA = {"target": [0.0, -0.040, 0.0], "distance": 1.44, "focal": 4.0}
BACKDROP = {"inner": [0.60, 0.63, 0.66], "outer": [0.24, 0.27, 0.31]}
