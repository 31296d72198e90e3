"""Programs that hang before anybody looks, and such as only look like event loops: `hung.py KIND` says `hangs` when it does.

`socket` and `computes` are bots whose loop has turned for a while and hangs then. `shared` has threads that wait in one
selector by turns and for their work elsewhere, as runtimes do that spread tasks over threads. `script` waits in selectors
within calls that come back, and then sleeps.
"""

import asyncio
import os
import select
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
    for _ in range(20):
        await asyncio.sleep(0.01)
    print("hangs", flush=True)
    hang()


def shared():
    """Each turn ends with something to do for the others, so that all of them have waited when they wait for the lock."""
    selector, (reader, writer) = select.epoll(), os.pipe()
    selector.register(reader, select.EPOLLIN)
    lock, peers = threading.Lock(), socket.socketpair()
    waited = threading.Barrier(3)

    def turns():
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
        threading.Thread(target=turns, daemon=True).start()
    turns()


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
    "shared": shared,
    "script": script,
}
# The rest waits until somebody looks, or has before it is said to hang.
if sys.argv[2:] == ["--after-input"]:
    sys.stdin.readline()
KINDS[sys.argv[1]]()
