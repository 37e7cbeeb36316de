"""Resampling and activation ops. The plain-PyTorch implementation of each is also its reference."""
