"""What each real program is started with, and what it does before it is looked at."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.lab.here.load import GET
from tests.lab.here.started import Started

FILES, SERVICES = Path(__file__).parent, Path(__file__).parents[1] / "services"
NOBODY = 65534
PHP = next((path.name for path in sorted(Path("/usr/sbin").glob("php-fpm*"))), "php-fpm")
SQL = "create temp table t as select g, md5(g::text) from generate_series(1, 20000) g;\n"


def postgres(started: Started) -> None:
    """20 connections that have worked, and stay open."""
    data = started.place / "postgres"
    data.mkdir()
    os.chown(data, NOBODY, NOBODY)
    as_nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    make = ["initdb", "-D", str(data / "db"), "-U", "postgres", "-A", "trust", "--no-sync"]
    subprocess.run([*as_nobody, *make], check=True, stdout=subprocess.DEVNULL)
    options = ["-c", "listen_addresses=", "-c", "shared_buffers=64MB", "-k", str(data)]
    started.start("PostgreSQL", *as_nobody, "postgres", "-D", str(data / "db"), *options)
    started.until((data / ".s.PGSQL.5432").exists, "PostgreSQL")
    before = started.said("SELECT 20000")
    for _ in range(20):
        session = started.client("psql", "-h", str(data), "-U", "postgres", "postgres")
        assert session.stdin is not None
        session.stdin.write(SQL.encode())
        session.stdin.flush()
    started.until(lambda: started.said("SELECT 20000") == before + 20, "PostgreSQL")


def redis(started: Started) -> None:
    """Three servers with the same keys."""
    commands = b"".join(b"SET key:%d %s\r\n" % (n, b"value:%d:" % n * 20) for n in range(20_000))
    for name in ("redis-1", "redis-2", "redis-3"):
        socket = str(started.place / name)
        started.start("Redis", "redis-server", "--port", "0", "--unixsocket", socket, "--save", "")
        started.ask(name, b"PING\r\n")
        client = started.client("redis-cli", "-s", socket, "--pipe")
        client.communicate(commands)


def memcached(started: Started) -> None:
    """Some thousand values."""
    socket = str(started.place / "memcached")
    started.start("memcached", "memcached", "-u", "root", "-s", socket, "-m", "64")
    value = b"v" * 1000
    for n in range(2000):
        started.ask("memcached", b"set key:%d 0 0 %d\r\n%s\r\n" % (n, len(value), value))


def nginx(started: Started) -> None:
    """Four workers of nginx, six of php-fpm."""
    shutil.copy(SERVICES / "var/www/html/prices.php", started.place)
    for name in ("nginx.conf", "php-fpm.conf"):
        text = (FILES / name).read_text()
        (started.place / name).write_text(text.replace("PLACE", str(started.place)))
    started.start("php-fpm", PHP, "-F", "-y", str(started.place / "php-fpm.conf"))
    started.until((started.place / "php").exists, "php-fpm")
    started.start("nginx", "nginx", "-c", str(started.place / "nginx.conf"))
    started.ask("nginx", GET, times=60)


def gunicorn(started: Started) -> None:
    """Flask and pandas, once with --preload: then the workers fork what is loaded."""
    for name, options in (("gunicorn", []), ("gunicorn-preload", ["--preload"])):
        server = [sys.executable, "-m", "gunicorn", "--workers", "4", *options]
        where = ["--bind", f"unix:{started.place / name}", "--chdir", f"{SERVICES}/opt/programs"]
        started.start(name.replace("-", " --"), *server, *where, "application:application")
        started.ask(name, GET, times=40)


def node(started: Started) -> None:
    """A cluster of four."""
    socket = str(started.place / "node")
    started.start("Node", "node", str(FILES / "cluster.js"), socket)
    started.ask("node", GET, times=40)


def java(started: Started) -> None:
    """Three JVMs."""
    before = started.said("ready 200000")
    for _ in range(3):
        started.start("JVM", "java", "-Xmx128m", str(FILES / "Work.java"))
    started.until(lambda: started.said("ready 200000") == before + 3, "JVM")


Program = Callable[[Started], None]
NEEDS: dict[Program, tuple[str, ...]] = {  # the first says its version
    postgres: ("postgres", "initdb", "psql", "setpriv"),
    redis: ("redis-server", "redis-cli"),
    memcached: ("memcached",),
    nginx: ("nginx", PHP),
    gunicorn: ("gunicorn",),
    node: ("node",),
    java: ("java",),
}


def missing(program: Program) -> list[str]:
    """What of this machine ``program`` lacks."""
    lacking = [name for name in NEEDS[program] if not shutil.which(name)]
    modules = ("gunicorn", "flask") if program is gunicorn else ()
    return lacking + [name for name in modules if not importlib.util.find_spec(name)]


def version(program: Program) -> str:
    """The first line that it says of itself."""
    option = "-v" if program is nginx else "-version" if program is java else "--version"
    command = [NEEDS[program][0], option]
    said = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return f"{program.__name__}: {said.stdout.splitlines()[0]}"
