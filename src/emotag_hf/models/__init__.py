"""Configurations, processors and models, with file names as in transformers."""
