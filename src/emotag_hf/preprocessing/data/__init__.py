"""The processed clip: what tracking and the teachers found in a video, in one folder; and how it is made."""
