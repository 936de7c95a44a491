"""Converts files of other projects: heads, avatars, checkpoints (see ../README.md)."""
