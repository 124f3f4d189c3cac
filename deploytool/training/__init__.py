"""Teaches a model from labelled pictures, and can be interrupted at any time."""
