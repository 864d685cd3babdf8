"""Light load: each server that has a socket in the directory is asked again and again.

    load.py DIRECTORY INTERVAL_SECONDS

Runs until it is killed. A program of its own, so that the process that reads does nothing else.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

ANSWER_SECONDS = 30.0
GET = b"GET / HTTP/1.0\r\nHost: here\r\n\r\n"
REDIS = b"".join(b"SET key:%d %d\r\n" % (n, n) for n in range(20))
MEMCACHED = b"set key:7 0 0 5\r\nvalue\r\nget key:7\r\n"
REQUESTS = {
    **dict.fromkeys(("nginx", "gunicorn", "gunicorn-preload", "node"), GET),
    **dict.fromkeys(("redis-1", "redis-2", "redis-3"), REDIS),
    "memcached": MEMCACHED,
}
SQL = "select count(*) from pg_class;\n"


def main(place: Path, interval_seconds: float) -> None:
    """Ask all of them, one after the other, every ``interval_seconds``."""
    servers = [(place / name, request) for name, request in REQUESTS.items()]
    servers = [(path, request) for path, request in servers if path.exists()]
    database = place / "postgres"
    while True:
        started = time.monotonic()
        for path, request in servers:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(ANSWER_SECONDS)
                connection.connect(str(path))
                connection.sendall(request)
                connection.recv(1 << 16)
        if database.exists():
            command = ["psql", "-h", str(database), "-U", "postgres", "postgres"]
            subprocess.run(command, input=SQL.encode(), stdout=subprocess.DEVNULL, check=True)
        print("round", flush=True)
        time.sleep(max(0.0, started + interval_seconds - time.monotonic()))


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
