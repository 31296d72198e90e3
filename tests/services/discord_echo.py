"""A bot that replies to `!` messages with what they say, on a library of one's choice. It knows nothing of being
watched. It prints `ready`, and ends by SIGTERM or SIGINT. With --wait it prints `started` when it has loaded its library,
and connects only after a line on standard input.
"""

import argparse
import importlib
import logging
import os
import signal
import sys

TOKEN = os.environ.get("DISCORD_TOKEN", "OTk5OTk5OTk5NTc0MDE2MDAx.a.token")
MODULES = {
    "discord.py": "discord",
    "nextcord": "nextcord",
    "py-cord": "discord",
    "disnake": "disnake",
    "disnake-uncompressed": "disnake",
}


def wait():
    print("started", flush=True)
    sys.stdin.readline()


def with_discord_py_or_a_relative(library, loaded):
    discord = importlib.import_module(MODULES[library])
    loaded()
    intents = discord.Intents.default()
    intents.message_content = True

    class Bot(discord.Client):
        async def on_ready(self):
            print("ready", flush=True)

        async def on_message(self, message):
            if not message.author.bot and message.content.startswith("!"):
                async with message.channel.typing():
                    await message.reply(f"You said: {message.content}")

    more = {"gateway_params": discord.GatewayParams(zlib=False)} if library == "disnake-uncompressed" else {}
    Bot(intents=intents, **more).run(TOKEN)


def with_hikari(loaded):
    import hikari

    loaded()
    bot = hikari.GatewayBot(TOKEN, intents=hikari.Intents.ALL_UNPRIVILEGED | hikari.Intents.MESSAGE_CONTENT, banner=None)

    @bot.listen(hikari.StartedEvent)
    async def started(event):
        print("ready", flush=True)

    @bot.listen(hikari.MessageCreateEvent)
    async def echo(event):
        if event.is_human and (event.content or "").startswith("!"):
            await bot.rest.trigger_typing(event.channel_id)
            await event.message.respond(f"You said: {event.content}", reply=True)

    bot.run(check_for_updates=False)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("library", choices=[*MODULES, "hikari"])
    parser.add_argument("--name", help="what to tell it by in a list of processes")
    parser.add_argument("--wait", action="store_true")
    options = parser.parse_args()
    library, loaded = options.library, wait if options.wait else lambda: None
    logging.basicConfig(level=logging.WARNING)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if library == "hikari":
        with_hikari(loaded)
    else:
        with_discord_py_or_a_relative(library, loaded)


if __name__ == "__main__":
    main()
