"""The consent to an avatar, and the mark that says that a video is AI-generated."""
