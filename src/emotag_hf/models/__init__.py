"""Configurations, processors and models, named as transformers names them."""
