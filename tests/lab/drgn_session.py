"""Runs in a guest: an interactive session of drgn, as someone at a terminal has it.

drgn_session.py LINE ...: types each line at drgn's prompt; prints what drgn shows after each, as
a JSON list, what it shows at its start as the first.
"""

import json
import os
import pty
import re
import select
import sys
import time

PROMPT = b">>> "
SECONDS = 120.0


def until_prompt(terminal: int) -> str:
    shown, deadline = b"", time.monotonic() + SECONDS
    while not shown.endswith(PROMPT):
        if not select.select([terminal], [], [], deadline - time.monotonic())[0]:
            sys.exit(f"no prompt: {shown!r}")
        shown += os.read(terminal, 1 << 16)
    return re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", shown.decode(errors="replace"))


pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.executable, [sys.executable, "-m", "drgn", "-q", "-k", "-s", "/symbols/vmlinux"])
shown = [until_prompt(terminal)]
for line in sys.argv[1:]:
    os.write(terminal, line.encode() + b"\n")
    shown.append(until_prompt(terminal))
json.dump(shown, sys.stdout)
