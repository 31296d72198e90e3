"""A bot's own clock for its replies: a busy bot reads late what was sent to it in time, so outside it nobody can tell.

A reply lasts from when the gateway's message came out of its decompression until the answer to the call that replies
with a reference to it came out of TLS. Times are nanoseconds of CLOCK_MONOTONIC.
"""

import re
import ssl
import time

MESSAGE = re.compile(r'"member":\{.*?\},"id":"(\d+)"')
REFERENCE = re.compile(rb'"message_reference":\{"type":0,"message_id":"(\d+)"')

received = {}
answered = {}


class Timed(ssl.SSLObject):
    def read(self, *arguments):
        got = super().read(*arguments)
        at = time.monotonic_ns()
        # Into a buffer it reads so many bytes.
        data = bytes(arguments[1][:got]) if isinstance(got, int) else got
        found = REFERENCE.search(data) if data.startswith(b"HTTP/1.1 200") else None
        if found:
            answered.setdefault(found[1].decode(), at)
        return got


def start():
    """For all connections from now on."""
    ssl.SSLContext.sslobject_class = Timed


def came(text):
    """Takes what the gateway's decompression gave."""
    at = time.monotonic_ns()
    found = MESSAGE.search(text) if text.startswith('{"t":"MESSAGE_CREATE"') else None
    if found:
        received.setdefault(found[1], at)


def replies():
    """Of every message that was replied to, when it came and when that was done."""
    for message, at in received.items():
        if message in answered:
            yield {"message": message, "received": at, "answered": answered[message]}
