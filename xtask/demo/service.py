"""A small chat service, as one would write it: a few routes, some slow, some failing now and then."""

import asyncio
import random

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

app = FastAPI(title="Demo chat service")

USERS = {1: "Miku", 2: "Rin", 3: "Len", 4: "Luka"}


class Message(BaseModel):
    text: str


def thinking_time() -> float:
    """Log-normal around 80 ms, from 20 to 400 ms: most answers come soon, some take long."""
    return min(max(random.lognormvariate(-2.5, 0.7), 0.02), 0.4)


@app.get("/status")
async def status() -> dict[str, str]:
    return {"status": "ok"}


@app.get("/users/{user_id}")
async def user(user_id: int) -> dict[str, str]:
    await asyncio.sleep(random.uniform(0.002, 0.008))
    if user_id not in USERS:
        raise HTTPException(status_code=404, detail="no such user")
    return {"name": USERS[user_id]}


@app.post("/chat")
async def chat(message: Message) -> dict[str, str]:
    await asyncio.sleep(thinking_time())
    if random.random() < 0.02:
        raise HTTPException(status_code=500, detail="the model is out of breath")
    return {"reply": f"You said: {message.text}"}
