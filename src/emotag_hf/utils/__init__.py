"""Helpers that every folder may use: optional packages, argument types, atomic writes, array files, threads,
rotations."""
