"""Comparison of an artifact's answers with the source's: metrics, noise and tolerances."""
