"""The paper's teachers (METHOD 3 to 5): action units, emotion, identity, geometry, each with an offline default."""
