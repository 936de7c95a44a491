"""Files of neighbouring projects in: heads, clips, avatars, checkpoints (see ../README.md)."""
