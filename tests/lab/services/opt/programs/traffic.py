"""Work for the programs: ``traffic.py PROGRAM``. Fixed in number, so that it ends."""

import socket
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable

KEYS = 10_000
AT_ONCE = 500
PHP_WORKERS = 6
ANSWERS = 6


def requests(port: int, count: int = 20, path: str = "?first=%d") -> None:
    for number in range(count):
        url = f"http://127.0.0.1:{port}/{path}" % (number * 100)
        with urllib.request.urlopen(url, timeout=600) as answer:
            assert answer.read()


def php(port: int) -> None:
    """Until every worker has answered so often that it takes no more memory."""
    answers: Counter[str] = Counter()
    while len(answers) < PHP_WORKERS or min(answers.values()) < ANSWERS:
        url = f"http://127.0.0.1:{port}/prices.php?first={answers.total() * 100}"
        with urllib.request.urlopen(url, timeout=600) as answer:
            assert answer.read()
            answers[answer.headers["Worker"]] += 1


def store(port: int, command: Callable[[bytes, bytes], bytes], stored: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        answers = connection.makefile("rb")
        for first in range(0, KEYS, AT_ONCE):
            pairs = [(b"key:%d" % n, b"value %d " % n * 40) for n in range(first, first + AT_ONCE)]
            connection.sendall(b"".join(command(key, value) for key, value in pairs))
            assert [answers.readline() for _ in pairs] == [stored] * AT_ONCE


def redis(port: int) -> None:
    line = b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n"
    store(port, lambda key, value: line % (len(key), key, len(value), value), b"+OK\r\n")


def memcached(port: int) -> None:
    line = b"set %b 0 0 %d\r\n%b\r\n"
    store(port, lambda key, value: line % (key, len(value), value), b"STORED\r\n")


def wait_for(port: int) -> None:
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            time.sleep(0.5)


TRAFFIC: dict[str, list[tuple[int, Callable[[int], None]]]] = {
    "memcached": [(11211, memcached)],
    "redis": [(port, redis) for port in (6381, 6382, 6383)],
    "php": [(8000, php)],
    "flask-each": [(8001, requests)],
    "flask-preload": [(8002, requests)],
    "node": [(8003, requests)],
    "java": [(port, lambda port: requests(port, 20, "?%d")) for port in (8101, 8102, 8103)],
}

for port, work in TRAFFIC[sys.argv[1]]:
    wait_for(port)
    work(port)
