"""Adaptation: from a video to an avatar (METHOD 5)."""
