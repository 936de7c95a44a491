"""Small tools that every folder may use: optional packages, atomic writes, array files, threads, rotations."""
