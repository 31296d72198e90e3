"""An ordinary bot on discord.py, with an LLM and, if wanted, FastAPI in the same process. It knows nothing of being
watched. It prints `ready`, and ends by SIGTERM or SIGINT. With --wait it prints `started` when it has loaded all that it
needs to connect, and connects only after a line on standard input.

Its commands: `!reply`, `!send`, `!stream` (one message, edited as the answer grows), `!elsewhere` (the answer goes to
another channel), `!twice` (two answers), `!typing` (it begins to type, and then has nothing to say), `!react`,
`!stall` (it does nothing for as many seconds as the number behind it says, and keeps all others waiting),
`!speak` (it says as much in a voice channel as the number behind it says, and hears as much),
`!webhook` (it posts through a webhook of which the first word behind it is the token). With
`llm` behind a command's name, as in `!replyllm`, the answer is the LLM's. Everything else it ignores.
"""

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
import time

import aiohttp
import discord

EDIT_EVERY = 4
"""Tokens between two edits of an answer that grows."""


SILENCE = b"\xf8\xff\xfe"
"""A packet of Opus with nothing to hear."""


class Llm:
    def __init__(self, url, session):
        self.url = f"{url}/v1/chat/completions"
        self.session = session

    def ask(self, text, **more):
        messages = [{"role": "system", "content": "You are Miku."}, {"role": "user", "content": text}]
        return self.session.post(self.url, json={"model": "miku", "messages": messages, **more})

    async def answer(self, text):
        async with self.ask(text) as response:
            return (await response.json())["choices"][0]["message"]["content"]

    async def tokens(self, text):
        async with self.ask(text, stream=True) as response:
            async for line in response.content:
                if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                    continue
                for choice in json.loads(line[6:])["choices"]:
                    if choice["delta"].get("content"):
                        yield choice["delta"]["content"]


class Bot(discord.Client):
    def __init__(self, options, llm, **more):
        intents = discord.Intents.default()
        intents.message_content = True
        super().__init__(intents=intents, **more)
        self.options = options
        self.llm = llm

    async def setup_hook(self):
        if self.options.api_port:
            self.serve_api()

    def serve_api(self):
        import fastapi
        import uvicorn

        app = fastapi.FastAPI()

        @app.get("/status")
        async def status():
            return {"ready": self.is_ready(), "guilds": len(self.guilds)}

        config = uvicorn.Config(app, host="127.0.0.1", port=self.options.api_port, log_level="warning")
        self.api = asyncio.create_task(uvicorn.Server(config).serve())

    async def on_ready(self):
        print("ready", flush=True)

    async def text(self, asked, with_llm):
        if not with_llm:
            return f"You said: {asked[-100:]}"
        if self.options.stream_llm:
            return "".join([token async for token in self.llm.tokens(asked)])
        return await self.llm.answer(asked)

    async def on_message(self, message):
        if message.author.bot or not message.content.startswith("!"):
            return
        name, _, asked = message.content[1:].partition(" ")
        with_llm = name.endswith("llm")
        act = getattr(self, f"do_{name.removesuffix('llm')}", None)
        if act:
            await act(message, asked.rstrip("x"), with_llm)

    async def do_reply(self, message, asked, with_llm):
        async with message.channel.typing():
            text = await self.text(asked, with_llm)
        await message.reply(text)

    async def do_send(self, message, asked, with_llm):
        await message.channel.send(await self.text(asked, with_llm))

    async def do_stream(self, message, asked, with_llm):
        sent, text = None, ""
        async with message.channel.typing():
            count = 0
            async for token in self.llm.tokens(asked):
                text += token
                count += 1
                if count % EDIT_EVERY == 0:
                    sent = await self.show(message, sent, text)
            await self.show(message, sent, text)

    async def show(self, message, sent, text):
        return await (sent.edit(content=text) if sent else message.reply(text))

    async def do_elsewhere(self, message, asked, with_llm):
        others = [channel for channel in message.guild.text_channels if channel != message.channel]
        await others[-1].send(await self.text(asked, with_llm))

    async def do_twice(self, message, asked, with_llm):
        await message.reply(await self.text(asked, with_llm))
        await message.channel.send(await self.text(asked, with_llm))

    async def do_typing(self, message, asked, with_llm):
        await message.channel.typing()

    async def do_react(self, message, asked, with_llm):
        await message.add_reaction("\N{FIRE}")

    async def do_stall(self, message, asked, with_llm):
        time.sleep(float(asked.split()[0]))
        await message.reply("Sorry.")

    async def do_speak(self, message, asked, with_llm):
        count, heard, loop = int(asked.split()[0]), asyncio.Semaphore(0), asyncio.get_running_loop()
        voice = await message.guild.voice_channels[0].connect()
        # What hears, in whichever library, asks the connection for it: discord.py itself hears nobody.
        voice._connection.add_socket_listener(lambda packet: loop.call_soon_threadsafe(heard.release))
        for _ in range(count):
            voice.send_audio_packet(SILENCE, encode=False)
            await heard.acquire()
        await voice.disconnect()
        await message.reply("That was it.")

    async def do_webhook(self, message, asked, with_llm):
        webhook = discord.Webhook.partial(1000000000000000040, asked.split()[0], client=self)
        await webhook.send("through a webhook", wait=True)

    async def on_interaction(self, interaction):
        response = interaction.response
        if interaction.type is discord.InteractionType.application_command:
            if not interaction.data["name"].startswith("ask"):
                await response.send_message("There you are.")
                return
            await response.defer(thinking=True)
            text = await self.text("a question", self.llm is not None)
            if interaction.data["name"] == "ask-original":
                await interaction.edit_original_response(content=text)
            else:
                await interaction.followup.send(text)
        elif interaction.type is discord.InteractionType.autocomplete:
            await response.autocomplete([])
        elif interaction.type is discord.InteractionType.component:
            await response.edit_message(content="Pressed.")
        elif interaction.type is discord.InteractionType.modal_submit:
            await response.send_message("Thanks.")


async def main(options):
    kind = type("ShardedBot", (Bot, discord.AutoShardedClient), {}) if options.shards else Bot
    more = {"shard_count": options.shards} if options.shards else {}
    async with aiohttp.ClientSession() as session:
        llm = Llm(options.llm, session) if options.llm else None
        # Where nothing follows, there is nothing to wait for.
        bot = kind(options, llm, guild_ready_timeout=0.5, heartbeat_timeout=options.heartbeat_timeout, **more)
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, lambda: asyncio.ensure_future(bot.close()))
        async with bot:
            await bot.start(os.environ.get("DISCORD_TOKEN", "OTk5OTk5OTk5NTc0MDE2MDAx.a.token"))


def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", help="what to tell it by in a list of processes")
    parser.add_argument("--llm", help="the address of its server")
    parser.add_argument("--stream-llm", action="store_true", help="have the LLM's answers streamed")
    parser.add_argument("--api-port", type=int)
    parser.add_argument("--shards", type=int)
    parser.add_argument("--heartbeat-timeout", type=float, default=60.0)
    parser.add_argument("--wait", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    options = parse()
    if options.wait:
        print("started", flush=True)
        sys.stdin.readline()
    asyncio.run(main(options))
