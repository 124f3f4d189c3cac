"""How a model becomes a graph: one file an exporter of torch.onnx, all with the same `export()`."""
