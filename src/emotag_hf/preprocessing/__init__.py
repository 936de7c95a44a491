"""Makes processed clips from videos, and checks whether a video is good enough."""
