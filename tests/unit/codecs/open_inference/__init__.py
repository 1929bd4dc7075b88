"""The Open Inference codec."""
