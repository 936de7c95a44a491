"""Avatars: their folder on disk, and their upload to the Hub."""
