"""Reads and edits ONNX graphs: producers and consumers of tensors, shapes, weights, convolutions and motifs."""
