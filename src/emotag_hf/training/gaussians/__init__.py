"""Optimises Gaussians for a person (METHOD 5, first stage of adaptation)."""
