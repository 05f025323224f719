"""Subnets as files, and where they go: a plan with weights, torch.export, torch.compile, ONNX, save_pretrained."""
