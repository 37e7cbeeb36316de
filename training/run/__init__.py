"""A live run: its state, checkpoints, snapshots, reports."""
