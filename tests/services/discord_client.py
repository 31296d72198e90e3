"""discord.py on its way through the REST API, as bots use it. It knows nothing of being watched.

It prints `ready`, waits for a line on standard input, makes its calls, prints `done` and waits for the end of its
input.
"""

import asyncio
import logging
import sys

import discord
from discord.webhook.async_ import async_context

CHANNEL, GUILD, USER = 1000000000000000020, 1000000000000000010, 1000000000000000003
WEBHOOK, INTERACTION = 1000000000000000040, 1000000000000000050
TOKEN = "aW50ZXJhY3Rpb246MTAwMDAwMDAwMDAwMDAwMDA1MDpzZWNyZXQ"


def say_and_wait(word):
    print(word, flush=True)
    sys.stdin.readline()


async def calls(client):
    channel = client.get_partial_messageable(CHANNEL)
    sent = [await channel.send(f"message {number}") for number in range(8)]
    await client.http.send_typing(CHANNEL)
    for number in range(4):
        partial = channel.get_partial_message(sent[0].id + number)
        await partial.edit(content="edited")
        await partial.add_reaction("\N{FIRE}")
        await partial.add_reaction("miku:1000000000000000039")
        await partial.remove_reaction("\N{FIRE}", discord.Object(client.user.id))
        await channel.fetch_message(partial.id)
        await partial.delete()
    await client.http.logs_from(CHANNEL, limit=5)
    await client.http.get_user(USER)
    await client.http.get_member(GUILD, USER)
    await client.http.add_role(GUILD, USER, 1000000000000000060)
    await client.http.bulk_upsert_global_commands(client.application_id, [])

    webhook = discord.Webhook.partial(WEBHOOK, TOKEN, client=client)
    for number in range(3):
        answer = await webhook.send("through a webhook", wait=True)
        await webhook.edit_message(answer.id + number, content="edited")

    session = client.http._HTTPClient__session
    for number in range(3):
        params = discord.webhook.async_.interaction_response_params(type=5)
        with params:
            await async_context.get().create_interaction_response(
                INTERACTION + number, TOKEN, session=session, params=params
            )
        await discord.Webhook.partial(client.application_id, TOKEN, client=client).edit_message(
            "@original", content="the answer"
        )


async def main():
    client = discord.Client(intents=discord.Intents.none())
    await asyncio.to_thread(say_and_wait, "ready")
    await client.login("a.bot.token")
    await calls(client)
    await asyncio.to_thread(say_and_wait, "done")
    await client.close()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    asyncio.run(main())
