"""Somebody who looks at the bot's own API every now and then."""

import asyncio
import random
import sys

import aiohttp

EVERY = 0.5
"""Seconds between two looks, on average."""


async def main(url):
    async with aiohttp.ClientSession() as session:
        while True:
            await asyncio.sleep(random.expovariate(1 / EVERY))
            try:
                async with session.get(url) as response:
                    await response.read()
            except aiohttp.ClientError as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr)


asyncio.run(main(sys.argv[1]))
