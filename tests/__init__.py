"""Tests; they mirror the tree (CONTRIBUTING.md)."""
