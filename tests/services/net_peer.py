"""One end of TCP connections, on words from standard input; it answers each with one line of JSON.

`serve ADDRESS PORT` listens and takes in what comes: a count of bytes, as many bytes, and answers with one.
`deaf ADDRESS PORT BACKLOG` listens and never accepts.
`connect HOST PORT PATIENCE` resolves and connects, to the first address that takes it, and keeps the connection.
`send BYTES` sends them over the last one and waits for the answer, and tells the kernel's round-trip time.
`resolve HOST`, `close` of all connections, `abort` of all by a reset.
"""

import encodings.idna  # noqa: F401, since to load it takes longer than to resolve a name
import json
import socket
import struct
import sys
import threading
import time

kept = []
kernels = []


def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def listen(address, port, backlog):
    listener = socket.socket(family(address))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, int(port)))
    listener.listen(backlog)
    kernels.append(listener)
    return listener


def exactly(connection, count):
    while count:
        piece = connection.recv(min(count, 1 << 16))
        if not piece:
            raise ConnectionError("it ended")
        count -= len(piece)


def take(connection):
    try:
        while head := connection.recv(8, socket.MSG_WAITALL):
            exactly(connection, int.from_bytes(head, "big"))
            connection.sendall(b"k")
    except OSError:
        pass
    finally:
        connection.close()


def accept(listener):
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=take, args=(connection,), daemon=True).start()


def serve(address, port):
    threading.Thread(target=accept, args=(listen(address, port, 128),), daemon=True).start()
    return {}


def deaf(address, port, backlog):
    listen(address, port, int(backlog))
    return {}


def connect(host, port, patience):
    found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    connection = socket.socket(found[0][0])
    connection.settimeout(float(patience))
    started = time.monotonic()
    try:
        connection.connect(found[0][4])
    except OSError as error:
        connection.close()
        return {"error": type(error).__name__, "errno": error.errno}
    took = time.monotonic() - started
    connection.settimeout(60)
    kept.append(connection)
    return {"seconds": took}


def send(count):
    connection = kept[-1]
    count = int(count)
    connection.sendall(count.to_bytes(8, "big"))
    connection.sendall(bytes(count))
    connection.recv(1)
    # `tcpi_rtt` of `struct tcp_info`, in microseconds.
    (rtt,) = struct.unpack_from("I", connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 68)
    return {"rtt": rtt / 1e6}


def resolve(host):
    started = time.monotonic()
    try:
        found = [entry[4][0] for entry in socket.getaddrinfo(host, 80, type=socket.SOCK_STREAM)]
        return {"seconds": time.monotonic() - started, "addresses": found}
    except socket.gaierror as error:
        return {"seconds": time.monotonic() - started, "error": error.errno}


def close():
    while kept:
        kept.pop().close()
    return {}


def abort():
    for connection in kept:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return close()


WORDS = {word.__name__: word for word in (serve, deaf, connect, send, resolve, close, abort)}

print("ready", flush=True)
for number, line in enumerate(sys.stdin, 1):
    word, *rest = line.split()
    print(number, json.dumps(WORDS[word](*rest)), flush=True)
