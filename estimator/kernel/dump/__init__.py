"""Crash dumps as files: formats, headers, parts."""
