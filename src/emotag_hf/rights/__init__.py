"""Who agreed to an avatar, and the mark that says a video was made by a machine."""
