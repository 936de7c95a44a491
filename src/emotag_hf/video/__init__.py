"""Video in and out, and the window of a frame that a clip shows."""
