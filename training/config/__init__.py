"""What a run is: options, presets, the configuration and its checks. Nothing here imports torch."""
