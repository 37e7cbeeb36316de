"""Reads pickles as data: nothing in them is imported, called or executed."""
