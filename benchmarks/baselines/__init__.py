"""The sides of a comparison: this project, and the same work in stock Paddle, PyTorch and ONNX Runtime."""
