"""Training: configuration, data, networks, augmentation, objective and the loop."""
