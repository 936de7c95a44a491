"""Evaluation of avatars: metrics against the true frames, and reports (METHOD 7)."""
