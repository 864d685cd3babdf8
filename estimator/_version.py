"""The version: what writes a snapshot need not import the front door for it."""

__version__ = "0.1.0"
