"""Trained networks: opening, drawing, projecting, exporting."""
