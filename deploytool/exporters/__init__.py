"""The ONNX exporters of torch.onnx, one module each, all with the same `export()`."""
