"""Adapts the user's model: builds it, binds its inputs, runs it in FP64, and names its outputs."""
