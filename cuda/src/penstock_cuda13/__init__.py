"""The compiled module of penstock for NVIDIA GPUs, which ``backend="cuda"`` uses. It has nothing to call by hand."""
