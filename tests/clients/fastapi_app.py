"""A web application on FastAPI that thinks aloud: it hands a model's thoughts and text to a browser as they come."""
# pip: fastapi==0.165.0 uvicorn==0.54.0 ollama==0.6.3

import json
import socket
import threading
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from urllib.parse import quote

import ollama
import uvicorn
from cases import (
    EMBEDDING,
    EVERY_MODEL,
    MORE_THAN_SLOTS,
    NOWHERE,
    ON_BOTH,
    ON_FIRST,
    ON_SECOND,
    break_next_stream,
    case,
    stall_next_stream,
    wait_until_idle,
)
from fastapi import FastAPI
from fastapi.responses import JSONResponse, StreamingResponse

app = FastAPI()
client = ollama.AsyncClient(timeout=20)


@app.exception_handler(ollama.ResponseError)
async def refused(_request, error):
    return JSONResponse({"detail": error.error}, error.status_code)


@app.get("/models")
async def models():
    return sorted(model.model for model in (await client.list()).models)


@app.get("/embedding")
async def embedding(text: str):
    return (await client.embed(EMBEDDING, text)).embeddings[0]


@app.get("/chat")
async def chat(model: str, prompt: str):
    parts = await client.chat(model, [{"role": "user", "content": prompt}], stream=True, think=True)
    # A model that is not there shows with the first part, when a status can still be sent.
    first = await anext(parts)

    async def events():
        try:
            yield event(first)
            async for part in parts:
                yield event(part)
        except Exception as error:
            yield f"event: error\ndata: {json.dumps(str(error))}\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


def event(part):
    if part.done:
        return "event: end\ndata: null\n\n"
    kind, text = ("thought", part.message.thinking) if part.message.thinking else ("text", part.message.content)
    return f"event: {kind}\ndata: {json.dumps(text)}\n\n"


listener = socket.create_server(("127.0.0.1", 0))
server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True).start()


@contextmanager
def browse(path):
    """What a browser gets for a path; it leaves at the end of the `with`."""
    with closing(HTTPConnection(*listener.getsockname(), timeout=20)) as browser:
        browser.request("GET", path)
        with closing(browser.getresponse()) as answer:
            yield answer


def get(path):
    with browse(path) as answer:
        return answer.status, json.load(answer)


def chat_with(model):
    return browse(f"/chat?model={quote(model)}&prompt=Say+hello.")


def events_of(answer):
    """The kinds and texts of the events of an answer, as they come."""
    assert answer.status == 200, answer.status
    kind = None
    for line in answer:
        name, _, value = line.decode().strip().partition(": ")
        if name == "event":
            kind = value
        elif name == "data":
            yield kind, json.loads(value)


def kinds_of(model):
    with chat_with(model) as answer:
        return [kind for kind, _ in events_of(answer)]


@case("list")
def _():
    assert get("/models") == (200, EVERY_MODEL), get("/models")


@case("chat, streamed")
def _():
    with chat_with(ON_BOTH) as answer:
        text = "".join(text for kind, text in events_of(answer) if kind == "text")
    assert text.strip(), "no text"


@case("thinking")
def _():
    kinds = kinds_of(ON_FIRST)
    thoughts, texts = kinds.count("thought"), kinds.count("text")
    assert thoughts and texts and kinds == ["thought"] * thoughts + ["text"] * texts + ["end"], kinds


@case("parts pass as they come")
def _():
    stall_next_stream("NODE_A")
    with chat_with(ON_FIRST) as answer:
        events = events_of(answer)
        # The node has said no more than this, and says no more while this browser listens.
        assert [next(events)[0], next(events)[0]] == ["thought", "thought"]
    wait_until_idle()


@case("embed, one and several")
def _():
    (status, one), (_, other) = get("/embedding?text=llama"), get("/embedding?text=alpaca")
    assert status == 200 and len(one) == len(other) and one != other


@case("a model that one node holds")
def _():
    for model in [ON_FIRST, ON_SECOND] * 3:
        assert kinds_of(model)[-1] == "end"


@case("a model that no node holds")
def _():
    with chat_with(NOWHERE) as answer:
        assert answer.status == 404 and "not found" in json.load(answer)["detail"], answer.status


@case("cancelled in mid-stream")
def _():
    for _ in range(MORE_THAN_SLOTS):
        stall_next_stream("NODE_A")
        with chat_with(ON_FIRST) as answer:
            next(events_of(answer))
        wait_until_idle()
    assert kinds_of(ON_FIRST)[-1] == "end"


@case("a broken stream is an error")
def _():
    break_next_stream("NODE_A")
    kinds = kinds_of(ON_FIRST)
    assert len(kinds) > 1 and kinds[-1] == "error", kinds
    assert kinds_of(ON_FIRST)[-1] == "end"


server.should_exit = True
