"""People using the demo service: about 20 requests a second, arriving at random."""

import asyncio
import random
import sys

import httpx

RATE = 20.0
"""Requests per second."""


async def wait_until_up(client: httpx.AsyncClient) -> None:
    while True:
        try:
            await client.get("/status")
            return
        except httpx.TransportError:
            await asyncio.sleep(0.1)


async def one_request(client: httpx.AsyncClient) -> None:
    kind = random.random()
    try:
        if kind < 0.6:
            await client.post("/chat", json={"text": "Good morning!"})
        elif kind < 0.85:
            await client.get(f"/users/{random.randint(1, 5)}")
        else:
            await client.get("/status")
    except httpx.TransportError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)


async def main(base_url: str) -> None:
    async with httpx.AsyncClient(base_url=base_url, timeout=10) as client, asyncio.TaskGroup() as people:
        await wait_until_up(client)
        while True:
            people.create_task(one_request(client))
            await asyncio.sleep(random.expovariate(RATE))


asyncio.run(main(sys.argv[1]))
