"""Turns a PyTorch model definition into files an edge device can run, and proves that they are right and faster."""
