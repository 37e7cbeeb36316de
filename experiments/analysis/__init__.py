"""Looking into trained networks: feature maps, their clusters, and what can be read from them."""
