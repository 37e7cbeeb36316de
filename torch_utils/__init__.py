"""PyTorch building blocks shared by training, metrics and the command lines."""
