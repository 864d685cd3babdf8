"""Reads a Linux kernel's memory through drgn. Nothing else in the package imports drgn."""
