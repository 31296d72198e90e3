"""A name server of few words, for IPv4 and IPv6 addresses; standard input is the one thing that ends it.

Names: as the argument tells, a JSON object from a name to its addresses. `slow.…` is answered after 200 ms, `silent.…` never,
`broken.…` with a server's failure. All others do not exist.
"""

import ipaddress
import json
import socket
import struct
import sys
import threading
import time

NAMES = json.loads(sys.argv[1])
A, AAAA = 1, 28
OK, SERVFAIL, NXDOMAIN = 0, 2, 3


def question(query):
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode())
        at += 1 + query[at]
    (kind,) = struct.unpack_from("!H", query, at + 1)
    return ".".join(labels).lower(), kind, query[12 : at + 5]


def answer(query):
    name, kind, asked = question(query)
    first = name.split(".")[0]
    if first == "silent":
        return None
    code = SERVFAIL if first == "broken" else OK if name in NAMES else NXDOMAIN
    found = []
    for text in NAMES.get(name, []) if code == OK else []:
        address = ipaddress.ip_address(text)
        if kind == (A if address.version == 4 else AAAA):
            data = address.packed
            found.append(b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 60, len(data)) + data)
    head = query[:2] + struct.pack("!HHHHH", 0x8180 | code, 1, len(found), 0, 0)
    if first == "slow":
        time.sleep(0.2)
    return head + asked + b"".join(found)


server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))


def serve(query, address):
    if (reply := answer(query)) is not None:
        server.sendto(reply, address)


def work():
    while True:
        threading.Thread(target=serve, args=server.recvfrom(512), daemon=True).start()


threading.Thread(target=work, daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
