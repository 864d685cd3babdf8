"""What is fixed in a snapshot's format and asked for where no table is: numbers, without Arrow."""

from __future__ import annotations

FORMAT_VERSION = 2
PAGE_SIZES = (4096, 16384, 65536)  # bytes
CONTENTS = ("anonymous", "all", "all,file")
"""``info["contents"]``: of which memory there are contents. "all": also of shared memory (tmpfs,
memfd, System V) and hugetlb; "all,file": also of files."""
