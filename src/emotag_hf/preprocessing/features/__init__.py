"""The paper's teachers (METHOD 3 to 5): models for action units, emotion, identity and geometry, each with an offline
default."""
