"""Programs with and without a stalled event loop: `hung.py KIND [--after-input]` prints `hangs` once it hangs.

`socket`, `computes` and `nested` are bots whose event loop stalls after some iterations, the last in a selector of its own.
`forked` is a healthy bot with worker processes forked within its loop. `ended` sleeps after its loop has ended. `beside` is an
idle bot on `poll` with a second loop in a thread. `polls` is an idle bot whose event loop waits in
`poll`. `shared` has threads that share one epoll descriptor and then block elsewhere, like the workers of Go and Tokio.
`script` has no event loop: it selects repeatedly and then sleeps. With `--after-input` it begins at the first line of input.
"""

import asyncio
import multiprocessing
import os
import select
import selectors
import socket
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor


def asks_a_silent_server():
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    client.recv(10)


def computes():
    while True:
        sum(range(1000))


def selects_on_its_own():
    with selectors.EpollSelector() as selector, socket.create_server(("127.0.0.1", 0)) as listener:
        selector.register(listener, selectors.EVENT_READ)
        selector.select()


async def ticks(count):
    for _ in range(count):
        await asyncio.sleep(0.01)


async def forked():
    workers = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork"))
    await asyncio.get_running_loop().run_in_executor(workers, abs, -1)
    print("hangs", flush=True)
    await ticks(100_000)


def ended():
    # Longer than it takes to recognise the loop.
    asyncio.run(ticks(200))
    print("hangs", flush=True)
    time.sleep(3600)


def beside():
    threading.Thread(target=asyncio.run, args=(ticks(100_000),), daemon=True).start()
    polls()


async def bot(hang):
    # Enough iterations to be taken for an event loop by behaviour alone.
    await ticks(20)
    print("hangs", flush=True)
    hang()


def polls():
    async def idle():
        print("hangs", flush=True)
        await asyncio.Event().wait()

    asyncio.SelectorEventLoop(selectors.PollSelector()).run_until_complete(idle())


def shared():
    selector, (reader, writer) = select.epoll(), os.pipe()
    selector.register(reader, select.EPOLLIN)
    lock, peers = threading.Lock(), socket.socketpair()
    waited = threading.Barrier(3)

    def work():
        for _ in range(30):
            with lock:
                os.write(writer, b"x")
                selector.poll()
                os.read(reader, 1)
                peers[0].send(b"x")
                peers[1].recv(1)
        if waited.wait() == 0:
            print("hangs", flush=True)
        threading.Event().wait()

    for _ in range(2):
        threading.Thread(target=work, daemon=True).start()
    work()


def script():
    reader, writer = socket.socketpair()
    for _ in range(30):
        writer.send(b"x")
        select.select([reader], [], [], 1)
        reader.recv(1)
    print("hangs", flush=True)
    time.sleep(3600)


KINDS = {
    "socket": lambda: asyncio.run(bot(asks_a_silent_server)),
    "computes": lambda: asyncio.run(bot(computes)),
    "nested": lambda: asyncio.run(bot(selects_on_its_own)),
    "forked": lambda: asyncio.run(forked()),
    "ended": ended,
    "polls": polls,
    "beside": beside,
    "shared": shared,
    "script": script,
}
if sys.argv[2:] == ["--after-input"]:
    sys.stdin.readline()
KINDS[sys.argv[1]]()
