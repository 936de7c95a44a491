"""Pretraining of the motion network on many people (METHOD 3 to 5)."""
