"""What the benchmark compares with: the same work in stock Paddle, PyTorch and ONNX Runtime, written as one writes it there."""
