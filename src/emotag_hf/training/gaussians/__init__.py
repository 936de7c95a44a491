"""Fitting Gaussians to a person (METHOD 5, stage one)."""
