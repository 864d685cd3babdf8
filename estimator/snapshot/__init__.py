"""The snapshot: what was found in a kernel, as tables of facts, in memory and on disk."""
