"""Ollama's own Python client."""
# pip: ollama==0.6.3

import asyncio

import ollama
from cases import (
    EMBEDDING,
    EVERY_MODEL,
    MORE_THAN_SLOTS,
    NOWHERE,
    ON_BOTH,
    ON_FIRST,
    ON_SECOND,
    TEXTS,
    break_next_stream,
    breaks,
    case,
    check_vectors,
    refuses,
    wait_until_idle,
)

client = ollama.Client(timeout=20)
hello = [{"role": "user", "content": "Say hello."}]
endless = {"num_predict": 20_000}


def check_stream(parts, text):
    parts = list(parts)
    assert len(parts) > 2, f"{len(parts)} parts"
    assert [part.done for part in parts].index(True) == len(parts) - 1, "the last part, and it alone, says done"
    assert "".join(text(part) for part in parts).strip(), "no text"


def weather(city: str) -> str:
    """How the weather is in a city."""
    return f"Sun over {city}."


@case("list")
def _():
    names = sorted(model.model for model in client.list().models)
    assert names == EVERY_MODEL, names


@case("show")
def _():
    for model in [ON_BOTH, ON_FIRST, ON_SECOND]:
        shown = client.show(model)
        assert shown.details.family and "completion" in shown.capabilities, shown


@case("chat, streamed")
def _():
    check_stream(client.chat(ON_BOTH, hello, stream=True), lambda part: part.message.content)


@case("chat, streamed, async")
def _():
    async def parts():
        return [part async for part in await ollama.AsyncClient(timeout=20).chat(ON_BOTH, hello, stream=True)]

    check_stream(asyncio.run(parts()), lambda part: part.message.content)


@case("chat, whole")
def _():
    answer = client.chat(ON_BOTH, hello)
    assert answer.done and answer.message.content.strip(), answer


@case("thinking")
def _():
    parts = list(client.chat(ON_FIRST, hello, stream=True, think=True))
    thought = [part.message.thinking is not None for part in parts]
    assert any(thought) and thought == sorted(thought, reverse=True), "thoughts, then text"


@case("generate, streamed")
def _():
    check_stream(client.generate(ON_BOTH, "Say hello.", stream=True), lambda part: part.response)


@case("embed, one and several")
def _():
    (one,) = client.embed(EMBEDDING, "llama").embeddings
    check_vectors(one, client.embed(EMBEDDING, TEXTS).embeddings)


@case("tools")
def _():
    asked = client.chat(ON_BOTH, hello, tools=[weather]).message
    (call,) = asked.tool_calls
    assert call.function.name == "weather", call
    said = {"role": "tool", "tool_name": "weather", "content": weather("Puno")}
    answer = client.chat(ON_BOTH, [*hello, asked, said], tools=[weather]).message
    assert answer.content.strip() and not answer.tool_calls, answer


@case("a model that one node holds")
def _():
    for model in [ON_FIRST, ON_SECOND] * 3:
        assert client.chat(model, hello).model == model


@case("a model that no node holds")
def _():
    for stream in [False, True]:
        error = refuses(lambda: list(client.chat(NOWHERE, hello, stream=stream)), ollama.ResponseError)
        assert error.status_code == 404 and "not found" in error.error, (error.status_code, error.error)


@case("cancelled in mid-stream")
def _():
    for _ in range(MORE_THAN_SLOTS):
        stream = client.chat(ON_SECOND, hello, stream=True, options=endless)
        next(stream)
        stream.close()
        wait_until_idle()
    assert client.chat(ON_SECOND, hello).done


@case("a broken stream is an error")
def _():
    break_next_stream()
    breaks(client.chat(ON_SECOND, hello, stream=True))
    assert client.chat(ON_SECOND, hello).done
