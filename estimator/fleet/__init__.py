"""Many snapshots: what KSM brings on all machines, and which should stand together.

Needs the extra ``fleet``: ``pip install '.[fleet]'``.
"""
