"""Ollama's own Python client."""
# pip: ollama==0.6.3

import asyncio

import ollama
from cases import EMBEDDING, NOWHERE, ON_BOTH, ON_SECOND, break_next_stream, case, wait_until_idle

client = ollama.Client(timeout=20)
hello = [{"role": "user", "content": "Say hello."}]
endless = {"num_predict": 20_000}


def check_stream(parts, text):
    parts = list(parts)
    assert len(parts) > 2, f"{len(parts)} parts"
    assert [part.done for part in parts].index(True) == len(parts) - 1, "the last part, and it alone, says done"
    assert "".join(text(part) for part in parts).strip(), "no text"


@case("list")
def _():
    names = sorted(model.model for model in client.list().models)
    assert names == ["llama3.2:latest", "nomic-embed-text:latest", "qwen3:8b"], names


@case("show")
def _():
    for model in [ON_BOTH, ON_SECOND]:
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


@case("generate, streamed")
def _():
    check_stream(client.generate(ON_BOTH, "Say hello.", stream=True), lambda part: part.response)


@case("embed, one and several")
def _():
    (one,) = client.embed(EMBEDDING, "llama").embeddings
    several = client.embed(EMBEDDING, ["llama", "alpaca", "guanaco"]).embeddings
    assert [len(vector) for vector in several] == [len(one)] * 3, "three vectors of the same length"
    assert list(several[0]) == list(one), "equal texts have equal vectors"


@case("a model that one node holds")
def _():
    for _ in range(6):
        assert client.chat(ON_SECOND, hello).model == ON_SECOND


@case("a model that no node holds")
def _():
    for stream in [False, True]:
        try:
            list(client.chat(NOWHERE, hello, stream=stream))
        except ollama.ResponseError as error:
            assert error.status_code == 404 and "not found" in error.error, (error.status_code, error.error)
        else:
            raise AssertionError("no error")


@case("cancelled in mid-stream")
def _():
    stream = client.chat(ON_BOTH, hello, stream=True, options=endless)
    next(stream)
    stream.close()
    wait_until_idle()
    assert client.chat(ON_BOTH, hello).done


@case("a broken stream is an error")
def _():
    break_next_stream()
    parts = 0
    try:
        for _ in client.chat(ON_SECOND, hello, stream=True, options=endless):
            parts += 1
    except Exception:
        assert parts > 0, "it broke before it began"
    else:
        raise AssertionError(f"{parts} parts and no error")
    assert client.chat(ON_SECOND, hello).done
