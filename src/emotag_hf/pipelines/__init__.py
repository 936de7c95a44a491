"""The pipelines of diffusers and transformers, and what they share."""
