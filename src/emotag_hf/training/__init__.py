"""Training: pretraining of the motion network and adaptation to a person (METHOD 5)."""
