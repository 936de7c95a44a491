"""The diffusers and transformers pipelines, and the code that they share."""
