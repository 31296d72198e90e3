"""Names that stand for the loopback, for one process: as lines in /etc/hosts would have it, but for nobody else."""

import socket

LOOPBACK = "127.0.0.1"


def resolve_everything():
    """For every library that asks the standard one."""
    look_up = socket.getaddrinfo
    socket.getaddrinfo = lambda host, *others, **more: look_up(LOOPBACK, *others, **more)


def resolver():
    """For aiohttp, which may ask its event loop."""
    from aiohttp.abc import AbstractResolver

    class Loopback(AbstractResolver):
        async def resolve(self, host, port=0, family=socket.AF_INET):
            there = {"hostname": host, "host": LOOPBACK, "port": port}
            return [{**there, "family": socket.AF_INET, "proto": 0, "flags": socket.AI_NUMERICHOST}]

        async def close(self):
            pass

    return Loopback()
