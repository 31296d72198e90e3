"""A clock at a client's own calls into TLS, whatever library it uses.

An exchange lasts from before the first byte of its request is handed to TLS until after the last byte of its answer
came out of it. It takes connections whose exchanges come one after the other.
"""

import ssl
import time


class Exchanges:
    """Those of one connection."""

    every = []

    def __init__(self):
        self.times = []
        self.answered = True
        self.every.append(self)

    def asks(self):
        if self.answered:
            self.times.append([time.perf_counter(), None])
            self.answered = False

    def is_answered(self):
        if self.times:
            self.times[-1][1] = time.perf_counter()
            self.answered = True


def timed(base, write):
    """A class of connections with the clock; `write` names the method that hands bytes over."""

    class Timed(base):
        def exchanges(self):
            if "_exchanges" not in self.__dict__:
                self._exchanges = Exchanges()
            return self._exchanges

        def read(self, *arguments, **more):
            got = super().read(*arguments, **more)
            if got:
                self.exchanges().is_answered()
            return got

    def hand_over(self, *arguments):
        self.exchanges().asks()
        return getattr(super(Timed, self), write)(*arguments)

    setattr(Timed, write, hand_over)
    return Timed


def start():
    """For all connections from now on."""
    ssl.SSLContext.sslobject_class = timed(ssl.SSLObject, "write")
    ssl.SSLContext.sslsocket_class = timed(ssl.SSLSocket, "send")


def seconds():
    """Of every exchange that was answered."""
    times = [pair for exchanges in Exchanges.every for pair in exchanges.times]
    return [end - start for start, end in times if end is not None]
