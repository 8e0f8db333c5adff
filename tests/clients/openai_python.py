"""OpenAI's Python SDK."""
# pip: openai==3.54.0

import asyncio
import os

import openai
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
    stall_next_stream,
    wait_until_idle,
)

settings = {"base_url": os.environ["OLLAMA_HOST"] + "/v1", "api_key": "ollama", "timeout": 20}
client = openai.OpenAI(**settings)
hello = [{"role": "user", "content": "Say hello."}]
weather = {
    "name": "weather",
    "description": "How the weather is in a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}


def chat(model, messages=hello, **options):
    return client.chat.completions.create(model=model, messages=messages, **options)


def check_stream(chunks):
    choices = [chunk.choices[0] for chunk in chunks]
    assert len(choices) > 2, f"{len(choices)} chunks"
    reasons = [choice.finish_reason for choice in choices]
    assert reasons == [None] * (len(reasons) - 1) + ["stop"], reasons
    return choices


@case("list")
def _():
    names = sorted(model.id for model in client.models.list())
    assert names == EVERY_MODEL, names


@case("show")
def _():
    for model in ["llama3.2:latest", ON_SECOND]:
        assert client.models.retrieve(model).id == model


@case("chat, streamed")
def _():
    choices = check_stream(chat(ON_BOTH, stream=True))
    assert "".join(choice.delta.content for choice in choices).strip(), "no text"


@case("chat, streamed, async")
def _():
    async def chunks():
        async with openai.AsyncOpenAI(**settings) as client:
            stream = await client.chat.completions.create(model=ON_BOTH, messages=hello, stream=True)
            return [chunk async for chunk in stream]

    check_stream(asyncio.run(chunks()))


@case("chat, whole")
def _():
    (choice,) = chat(ON_BOTH).choices
    assert choice.finish_reason == "stop" and choice.message.content.strip(), choice


@case("generate, streamed")
def _():
    choices = check_stream(client.completions.create(model=ON_BOTH, prompt="Say hello.", stream=True))
    assert "".join(choice.text for choice in choices).strip(), "no text"


@case("responses, streamed")
def _():
    events = list(client.responses.create(model=ON_BOTH, input="Say hello.", stream=True))
    assert events[0].type == "response.created" and events[-1].type == "response.completed", events
    assert any(event.type == "response.output_text.delta" and event.delta.strip() for event in events), "no text"


@case("responses, whole")
def _():
    answer = client.responses.create(model=ON_BOTH, input="Say hello.")
    assert answer.status == "completed" and answer.output_text.strip(), answer


@case("embed, one and several")
def _():
    (one,) = client.embeddings.create(model=EMBEDDING, input="llama").data
    several = client.embeddings.create(model=EMBEDDING, input=TEXTS).data
    check_vectors(one.embedding, [vector.embedding for vector in several])


@case("tools")
def _():
    tools = [{"type": "function", "function": weather}]
    (choice,) = chat(ON_BOTH, tools=tools).choices
    (call,) = choice.message.tool_calls
    assert choice.finish_reason == "tool_calls" and call.function.name == "weather", choice
    said = {"role": "tool", "tool_call_id": call.id, "content": "Sun over Puno."}
    (choice,) = chat(ON_BOTH, [*hello, choice.message, said], tools=tools).choices
    assert choice.message.content.strip() and not choice.message.tool_calls, choice


@case("a model that one node holds")
def _():
    for model in [ON_FIRST, ON_SECOND] * 3:
        assert chat(model).model == model


@case("a model that no node holds")
def _():
    for stream in [False, True]:
        error = refuses(lambda: chat(NOWHERE, stream=stream), openai.NotFoundError)
        assert "not found" in error.body["message"], error.body


@case("cancelled in mid-stream")
def _():
    for _ in range(MORE_THAN_SLOTS):
        stall_next_stream()
        stream = chat(ON_SECOND, stream=True)
        next(stream)
        stream.close()
        wait_until_idle()
    assert chat(ON_SECOND).choices


@case("a broken stream is an error")
def _():
    break_next_stream()
    breaks(chat(ON_SECOND, stream=True))
    break_next_stream()
    breaks(client.responses.create(model=ON_SECOND, input="Say hello.", stream=True))
    assert chat(ON_SECOND).choices
