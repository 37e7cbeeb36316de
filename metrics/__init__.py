"""Distances between sets of images: detectors, statistics, one file a metric, and what runs them."""
