"""Further command lines: ``python tools/NAME.py`` or, from the project's root, ``python -m tools.NAME``."""
