"""Locates the first wrong tensor in the graphs of a run, and reduces it to a reproducer."""
