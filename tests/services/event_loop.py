"""Programs with event loops that note by themselves what their loops do.

    event_loop.py turns asyncio|uvloop    turns of known lengths; tells how long each was
    event_loop.py blocks [FOLDER]         blocks its loop in the ways that it is told; FOLDER is on a file system of its own
    event_loop.py pool                    threads that work and wait, and no loop
    event_loop.py thread                  a loop that is not in the first thread, beside threads as above

It says `ready`, then does what standard input says, line by line, and ends when that ends.
"""

import asyncio
import concurrent.futures
import fcntl
import itertools
import json
import os
import random
import select
import selectors
import socket
import sys
import threading
import time

TURNS = 3000


def spin(nanoseconds):
    end = time.monotonic_ns() + nanoseconds
    while time.monotonic_ns() < end:
        pass


def lengths():
    """Half of them are below 0.5 ms, 99 of 100 below 5 ms, and many are close to either."""
    rng = random.Random(39)
    for _ in range(TURNS):
        yield rng.randrange(4_700_000, 5_300_000) if rng.random() < 0.02 else rng.randrange(300_000, 700_000)


class NotingSelector(selectors.EpollSelector):
    """Notes the time from its return to the next wait."""

    def __init__(self):
        super().__init__()
        self.returned = None
        self.turns = []

    def select(self, timeout=None):
        if self.returned is not None:
            self.turns.append(time.monotonic_ns() - self.returned)
        events = super().select(timeout)
        self.returned = time.monotonic_ns()
        return events


async def lines():
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    print("ready", flush=True)
    async for line in reader:
        yield line.decode().split()


async def asyncio_turns():
    selector = asyncio.get_running_loop()._selector
    async for _ in lines():
        selector.turns.clear()
        for place, length in enumerate(lengths()):
            # Waits that block and waits that do not.
            await asyncio.sleep(0.0005 if place % 2 else 0)
            spin(length)
        await asyncio.sleep(0)
        print(json.dumps(selector.turns), flush=True)


async def uvloop_turns():
    """Each turn is one call of a reader, for which somebody else writes: uvloop lets nobody see its waits."""
    loop = asyncio.get_running_loop()
    async for _ in lines():
        receiver, sender = os.pipe()
        turns, done, left = [], loop.create_future(), lengths()

        def turn():
            began = time.monotonic_ns()
            os.read(receiver, 1)
            spin(next(left))
            if len(turns) == TURNS - 1:
                done.set_result(None)
            turns.append(time.monotonic_ns() - began)

        loop.add_reader(receiver, turn)
        writer = os.fork()
        if writer == 0:
            for _ in range(TURNS):
                # One that comes while the loop still works is the next turn.
                os.write(sender, b"x")
                time.sleep(0.0004)
            os._exit(0)
        await done
        loop.remove_reader(receiver)
        os.waitpid(writer, 0)
        print(json.dumps(turns), flush=True)


def compute():
    end = time.thread_time() + 0.3
    while time.thread_time() < end:
        pass


def wait_for_lock():
    lock, held = threading.Lock(), threading.Event()

    def hold():
        with lock:
            held.set()
            time.sleep(0.3)

    threading.Thread(target=hold).start()
    held.wait()
    with lock:
        pass


def wait_for_disk(folder):
    """Writes to a file system that is frozen meanwhile."""
    FIFREEZE, FITHAW = 0xC0045877, 0xC0045878
    directory = os.open(folder, os.O_RDONLY)
    file = os.open(os.path.join(folder, "file"), os.O_WRONLY | os.O_CREAT)
    fcntl.ioctl(directory, FIFREEZE, 0)

    def thaw():
        time.sleep(0.3)
        fcntl.ioctl(directory, FITHAW, 0)

    threading.Thread(target=thaw).start()
    os.write(file, b"x")


def wait_in_call():
    one, other = socket.socketpair()
    one.settimeout(0.3)
    try:
        one.recv(1)
    except TimeoutError:
        pass


async def blocks(folder):
    ways = {
        "sleep": lambda: time.sleep(0.3),
        "compute": compute,
        "lock": wait_for_lock,
        "disk": lambda: wait_for_disk(folder),
        "call": wait_in_call,
        "process": lambda: os.system("sleep 0.3"),
        "nothing": lambda: None,
    }

    async def tick():
        while True:
            await asyncio.sleep(0.005)

    ticking = asyncio.create_task(tick())
    async for (way,) in lines():
        ways[way]()
        await asyncio.sleep(0)
        print("done", way, flush=True)
    ticking.cancel()


def work_and_wait():
    """Threads that wait for work, that wait for a socket, and that sleep by `select`."""
    pool = concurrent.futures.ThreadPoolExecutor(32)

    def wait():
        one, other = socket.socketpair()
        one.settimeout(0.002)
        while True:
            try:
                one.recv(1)
            except TimeoutError:
                pass
            select.select([], [], [], 0.001)

    for _ in range(8):
        threading.Thread(target=wait, daemon=True).start()
    return pool


def pool():
    pool = work_and_wait()
    print("ready", flush=True)
    for _ in sys.stdin:
        for _ in range(20):
            list(pool.map(time.sleep, [0.001] * 64))
        print("done", flush=True)
    os._exit(0)


def thread():
    work_and_wait()
    selector = NotingSelector()

    async def echo(reader, writer):
        while data := await reader.read(100):
            writer.write(data)

    async def talk():
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        asked = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def ask():
            print("ready", flush=True)
            for _ in sys.stdin:
                loop.call_soon_threadsafe(asked.put_nowait, None)
            os._exit(0)

        threading.Thread(target=ask, daemon=True).start()
        for number in itertools.count(1):
            await asked.get()
            for _ in range(500):
                writer.write(b"x")
                await reader.read(1)
            print("turns", number, len(selector.turns), flush=True)

    running = threading.Thread(target=lambda: asyncio.SelectorEventLoop(selector).run_until_complete(talk()))
    running.start()
    running.join()


def main():
    what, *rest = sys.argv[1:]
    if what == "turns" and rest == ["uvloop"]:
        import uvloop

        uvloop.new_event_loop().run_until_complete(uvloop_turns())
    elif what == "turns":
        asyncio.SelectorEventLoop(NotingSelector()).run_until_complete(asyncio_turns())
    elif what == "blocks":
        asyncio.run(blocks(*(rest or [None])))
    else:
        {"pool": pool, "thread": thread}[what]()


main()
