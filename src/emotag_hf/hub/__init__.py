"""Repositories on the Hub: what they may hold, up and down, their cards."""
