"""The published idea, written plainly: the baseline that scripts/bench compares with.

drgn -c VMCORE -s VMLINUX scripts/plain_drgn.py: walks the VMAs, reads page by page, hashes each
page, counts equal hashes in a dictionary.
"""

import json
import sys
import time
from collections import Counter

import xxhash
from drgn import FaultError, get_default_prog
from drgn.helpers.linux.mm import access_remote_vm, for_each_vma
from drgn.helpers.linux.pid import for_each_task

PAGE_SIZE = 4096


def main() -> None:
    """Count pages per content over all anonymous VMAs; print the result as JSON."""
    prog = get_default_prog()
    started = time.perf_counter()
    copies: Counter[int] = Counter()
    mms = set()
    for task in for_each_task(prog):
        mm = task.mm.read_()
        if not mm or mm.value_() in mms:
            continue
        mms.add(mm.value_())
        for vma in for_each_vma(mm):
            if not vma.anon_vma:
                continue
            for address in range(int(vma.vm_start), int(vma.vm_end), PAGE_SIZE):
                try:
                    page = access_remote_vm(mm, address, PAGE_SIZE)
                except FaultError:
                    continue
                copies[xxhash.xxh3_64_intdigest(page)] += 1
    result = {
        "pages": copies.total(),
        "contents": len(copies),
        "pages_sharing": copies.total() - len(copies),
        "seconds": time.perf_counter() - started,
    }
    json.dump(result, sys.stdout)
    print()


main()
