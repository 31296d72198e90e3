"""What the stand-in knows to have happened: one JSON line for each event, in a file.

Every time is in nanoseconds of CLOCK_MONOTONIC, which is also the kernel's clock for BPF programs. `what` is one of:

- `connected`: a gateway connection, with its number, the compression asked for, and whether it is encrypted.
- `sent`: a gateway message, with `before` and `after` the call that wrote it, `op`, `t`, `s`, the size of its JSON and
  what that took on the wire. What a person sent has `person` and the `message` or `interaction`, its `channel`, and
  for interactions the `token`. `READY` has the `session`.
- `received`: a gateway message of the bot's, with `op`, and `d` of a heartbeat.
- `closed`: the end of a gateway connection, with its code and whom it came from (`bot`, `standin` or `network`).
- `request`: a REST call, with `received`, when its first byte was there, and `answering` and `answered`, before and after
  its answer was written.
  `answers` is the message or interaction of a person that it is about: a message by the reference or by the number
  that its text repeats, an interaction by its id or token.
"""

import json
import time

now = time.monotonic_ns


class Truth:
    def __init__(self, path):
        self.file = open(path, "w", buffering=1)

    def write(self, what, **facts):
        self.file.write(json.dumps({"what": what, **facts}, separators=(",", ":")) + "\n")
