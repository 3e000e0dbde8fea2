"""Honest scores of a generator: re-evaluated archives, held-out elites, noise ceiling."""
