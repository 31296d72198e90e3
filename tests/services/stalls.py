"""An event loop that is blocked on purpose: on standard input comes what to do, on standard output what was done.

`KIND SECONDS` blocks the loop so long, and answers an object: the kind, the line that blocks, counted by the
interpreter itself, how many seconds that took and how many of them the thread ran, and the time of day when it was over.
"""

import argparse
import asyncio
import datetime
import fcntl
import json
import os
import socket
import sys
import tempfile
import threading
import time


def line():
    """The line of whoever calls."""
    return sys._getframe(1).f_lineno


def sleeps(seconds):
    where = line() + 1
    time.sleep(seconds)
    return where


def computes(seconds):
    end = time.monotonic() + seconds
    where = line() + 1
    while time.monotonic() < end: sum(range(1000))  # noqa: E701: one line, so that there is one to name
    return where


def writes_to_disk(seconds):
    end = time.monotonic() + seconds
    with tempfile.TemporaryFile(dir=arguments.folder) as file:
        where = line() + 1
        while time.monotonic() < end: os.write(file.fileno(), bytes(4096)), os.fsync(file.fileno())  # noqa: E701
    return where


def waits_for_lock(seconds):
    with tempfile.NamedTemporaryFile() as file, open(file.name) as other:
        fcntl.flock(file, fcntl.LOCK_EX)
        timer = threading.Timer(seconds, fcntl.flock, (file, fcntl.LOCK_UN))
        timer.start()
        where = line() + 1
        fcntl.flock(other, fcntl.LOCK_EX)
        timer.join()
    return where


def waits_for_peer(seconds):
    reader, writer = socket.socketpair()
    timer = threading.Timer(seconds, writer.send, (b"x",))
    timer.start()
    where = line() + 1
    reader.recv(1)
    timer.join()
    return where


KINDS = {
    "sleep": sleeps,
    "computation": computes,
    "disk": writes_to_disk,
    "lock": waits_for_lock,
    "peer": waits_for_peer,
}


async def plant(kind, seconds):
    began, ran = time.monotonic(), time.thread_time()
    where = KINDS[kind](seconds)
    ran, took = time.thread_time() - ran, time.monotonic() - began
    over = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"kind": kind, "line": where, "took": took, "ran": ran, "over": over}


async def tick():
    """A loop is known by its turns."""
    while True:
        await asyncio.sleep(0.02)


async def main():
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    ticking = None if arguments.still else asyncio.ensure_future(tick())
    print("ready", sys.version.split()[0], type(loop).__module__, flush=True)
    while command := await commands.readline():
        kind, seconds = command.decode().split()
        print(json.dumps(await plant(kind, float(seconds))), flush=True)
        await asyncio.sleep(0.01)
    if ticking:
        ticking.cancel()


parser = argparse.ArgumentParser()
parser.add_argument("--uvloop", action="store_true")
parser.add_argument("--still", action="store_true", help="iterate only when there is something to do")
parser.add_argument("--threads", type=int, default=0, help="threads that wait, beside the loop")
parser.add_argument("--folder", default=tempfile.gettempdir(), help="where to write")
arguments = parser.parse_args()
for _ in range(arguments.threads):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
if arguments.uvloop:
    import uvloop

    uvloop.install()
asyncio.run(main())
