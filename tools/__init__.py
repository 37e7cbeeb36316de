"""Command lines for trained networks and runs: ``python tools/NAME.py``."""
