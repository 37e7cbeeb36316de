"""Resampling and activation ops. Each has a plain-PyTorch implementation that also serves as its
reference."""
