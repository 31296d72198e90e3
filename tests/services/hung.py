"""Programs with and without a stalled event loop: `hung.py KIND [--after-input]` prints `hangs` once it hangs.

`socket` and `computes` are bots whose event loop stalls after some iterations. `polls` is an idle bot whose event loop waits in
`poll`. `shared` has threads that share one epoll descriptor and then block elsewhere, like the workers of Go and Tokio.
`script` has no event loop: it selects repeatedly and then sleeps. With `--after-input` it begins at the first line of input.
"""

import asyncio
import os
import select
import selectors
import socket
import sys
import threading
import time


def asks_a_silent_server():
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    client.recv(10)


def computes():
    while True:
        sum(range(1000))


async def bot(hang):
    # Enough iterations to be taken for an event loop by behaviour alone.
    for _ in range(20):
        await asyncio.sleep(0.01)
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
    "polls": polls,
    "shared": shared,
    "script": script,
}
if sys.argv[2:] == ["--after-input"]:
    sys.stdin.readline()
KINDS[sys.argv[1]]()
