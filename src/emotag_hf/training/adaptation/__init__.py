"""A video becomes an avatar (METHOD 5)."""
