"""Spends its processor time in two functions, three to one, beside a thread that sleeps; tells how much each took."""

import argparse
import json
import sys
import threading
import time


def spin(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(500))


def much(seconds):
    spin(seconds)


def little(seconds):
    spin(seconds)


def idles():
    threading.Event().wait()


parser = argparse.ArgumentParser()
parser.add_argument("--seconds", type=float, default=60)
parser.add_argument("--rounds", action="store_true", help="tell rounds of work a second instead, until killed")
arguments = parser.parse_args()
threading.Thread(target=idles, daemon=True).start()
print("ready", flush=True)
while arguments.rounds:
    count, began = 0, time.thread_time()
    while (ran := time.thread_time() - began) < 0.2:
        sum(range(500))
        count += 1
    print(f"round {count / ran}", flush=True)
end = time.monotonic() + arguments.seconds
spent = {"much": 0.0, "little": 0.0}
while time.monotonic() < end:
    for name, function, share in (("much", much, 0.015), ("little", little, 0.005)):
        before = time.thread_time()
        function(share)
        spent[name] += time.thread_time() - before
print(json.dumps(spent), flush=True)
sys.stdin.read()
