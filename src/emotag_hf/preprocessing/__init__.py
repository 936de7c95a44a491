"""From somebody's video to a processed clip, and whether the video is good enough."""
