"""Finds what an exporter fixed in the model's own lines, and tries inputs that would have gone another way there."""
