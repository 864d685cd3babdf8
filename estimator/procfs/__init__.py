"""Reads a running system through /proc, where the kernel's own memory may not be read."""
