"""A live run: its state, checkpoints, ticks and records."""
