"""Further command lines, run as ``python -m tools.NAME`` from the project's root."""
