"""Analysis of trained networks: feature maps, their clusters, and segmentation probes."""
