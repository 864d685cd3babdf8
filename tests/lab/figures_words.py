"""The words of the page of published figures, with the address of each of them."""

INTRODUCTION = """\
# Published figures, forecast and rebuilt

Written by `./scripts/figures` at commit {commit}, not by hand. Meta and KubeVirt published what KSM
does on their machines. Here are their figures, what `forecast` says for memory of the same shape
at full scale, and what ksmd did with an eighth of it in an emulated guest of {gib} GiB
({release}): {counters} counters of /sys/kernel/mm/ksm after each of {scans} full scans are
{compared} numbers, of which {equal} are as forecast.

The figures are from

- the talk at the Linux Plumbers Conference 2023, as
  [LWN](https://lwn.net/Articles/953141/) tells it (its slides were not read here): "the talk";
- [counters of an Instagram server](https://lore.kernel.org/linux-mm/qvqwlej8vrst.fsf@dev0134.prn3.facebook.com/),
  a mail of April 2023: "the mail";
- the cover letters of [smart_scan](https://lore.kernel.org/linux-mm/20230927162222.3827551-1-shr@devkernel.io/)
  and of [the advisor](https://lore.kernel.org/linux-mm/20231218231054.1625219-1-shr@devkernel.io/),
  and [an answer](https://lore.kernel.org/linux-mm/87il59vbl9.fsf@devkernel.io/) about the latter;
- [ksm-tune.py](https://github.com/openshift-virtualization/virt-platform-autopilot/blob/0fc39d42bf9b7443f101fa27720b1734ccc802b4/assets/active/machine-config/05-ksm-zero-only/ksm-tune.py)
  of OpenShift Virtualization, and
  [virt-handler](https://github.com/kubevirt/kubevirt/blob/05a1e1256f8423ea14df47b56f6e17dd3f0e4ee2/pkg/virt-handler/ksm/ksm.go)
  of KubeVirt.
"""

SHAPE = """\
## The memory

A machine of 64 GB, 36 workers and their controller, max_page_sharing 256. The mail's counters say
what is merged. What is not can be read in two ways: pages_volatile counts pages that change from
scan to scan, and pages that fork shares. Of a page that {processes} processes map, ksmd puts one
mapping into the unstable tree (pages_unshared); the others come upon that same page and are
counted as volatile. 19.7 M candidates are more than 64 GB of 4 KiB pages, so fork shares many;
here all that is volatile is fork's. Each process has

- {forked} pages of the controller, from before it forked;
- {equal} pages whose contents all processes have, some of them twice;
- {common} pages of 176 contents, each of more pages than one KSM page may have mappings;
- {own} pages that no other process has.

That is {gib} GiB of frames and {candidates} candidates; an eighth is {eighth_gib} GiB and {eighth}.
"""

COST = """\
## What a page costs

Not published, but the share of a CPU is. ksmd sleeps for sleep_millisecs (20) after each batch, so
a share s at N pages_to_scan is s / (1 - s) * 20 ms / N for a page. Below, 6 µs and 3.4 µs are used.
"""

SCAN_TIME = """\
## Scan time by pages_to_scan

Published (the talk): the default of 100 is "way too low", 4,000-5,000 is a good compromise for
Instagram and 2,000-3,000 for other workloads; a full scan should take two to three minutes, and if
it takes 20, pages_to_scan is too low. The mail used 3,000. The forecast, with smart_scan off:
"""

SMART_SCAN = """\
## Share skipped by smart_scan

Published: 10-20 % fewer pages scanned per cycle (the talk), 20-25 %, and from over 20 M to less
than 15 M pages a scan for Instagram (the cover letter).
"""

ADVISOR = """\
## The scan-time advisor

Published: pages_to_scan 5,000-6,000 at startup and 2,500 or less in the steady state, ksmd up to
60 % of a CPU and then around 30 %, 20-30 % saved (the talk); 25 % saved, and pages_to_scan reduced
to about 40 % of its most (the cover letter). The forecast: target 200 s, as by default; a page
costs {cost} µs; smart_scan off, so that every scan has as many pages. At the start these are all
candidates; at rest those of {fewer} of the processes, which is the "less than 15M pages" that
smart_scan leaves of Instagram's.
"""

KUBEVIRT = """\
## KubeVirt's scan times

ksm-tune.py sets pages_to_scan 1,000 and sleep_millisecs 50 (25 on a node of 1 TB) for a kernel that
merges zero-filled pages alone, and states a sweep for each size of node, with merging after two.
The forecast is for virtual machines that take all memory of the node, a quarter of it zero-filled,
with use_zero_pages, at {least} to {most} µs a page, what `forecast` takes where nothing is known;
ksmd visits as many pages if it merges all equal ones. What explains the distance: the stated
sweeps count the sleep and not the {least} to {most} ms in which ksmd then works. And guests do not
take all memory, nor have they touched all of theirs. (* in proportion to {largest} GiB)
"""

VIRT_HANDLER = """\
virt-handler itself goes from 100 pages_to_scan to {pages} in steps of 300, while less than a fifth
of memory is available, and sets sleep_millisecs to 100 ms * 16 GB / used memory, at least 10. No
scan times are published. At its most, on a node that is used to {used}:
"""

NOT_REBUILT = """\
## What can't be rebuilt

- How many pages an Instagram server has when it starts ("more than twice"), how long its workers
  live, and how many of their pages change between two scans. They would decide between the two
  readings of pages_volatile, and set the share that smart_scan skips.
- The saving of the talk: 73,000 pages_shared and 2.1 M pages_sharing are 8.6 GB, less 64 bytes for
  each of some 20 M rmap_items 7.3 GB; told are around 6 GB.
- The mail's general_profit, 20,620,539,008: with 64 bytes for each of its 19,671,712 rmap_items it
  would be 20,283,947,008. Told is what comes of 14,412,462 of them, which is (up to 256)
  pages_shared, pages_unshared and pages_volatile without pages_sharing; the patch was under review.
- The answer's "1 to 2 %" of a machine with 32 CPUs for a quarter of ksmd's time: ksmd is one
  thread, and a quarter of a whole CPU is 0.8 % of 32.
- CPU time in the guest: its processor is emulated.
"""
