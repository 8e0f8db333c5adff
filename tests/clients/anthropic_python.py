"""Anthropic's Python SDK."""
# pip: anthropic==2.12.0

import os

import anthropic
from cases import (
    EVERY_MODEL,
    MORE_THAN_SLOTS,
    NOWHERE,
    ON_BOTH,
    ON_FIRST,
    ON_SECOND,
    break_next_stream,
    breaks,
    case,
    refuses,
    stall_next_stream,
    wait_until_idle,
)

client = anthropic.Anthropic(base_url=os.environ["OLLAMA_HOST"], api_key="ollama", timeout=20)
hello = [{"role": "user", "content": "Say hello."}]
weather = {
    "name": "weather",
    "description": "How the weather is in a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}


def chat(model, messages=hello, **options):
    return client.messages.create(model=model, messages=messages, max_tokens=2000, **options)


@case("list")
def _():
    names = sorted(model.id for model in client.models.list().data)
    assert names == EVERY_MODEL, names


@case("chat, streamed")
def _():
    with client.messages.stream(model=ON_BOTH, messages=hello, max_tokens=2000) as stream:
        parts = list(stream.text_stream)
        whole = stream.get_final_message()
    assert len(parts) > 2 and "".join(parts).strip(), parts
    assert whole.stop_reason == "end_turn" and whole.content[0].text == "".join(parts), whole


@case("chat, whole")
def _():
    answer = chat(ON_BOTH)
    assert answer.stop_reason == "end_turn" and answer.content[0].text.strip(), answer


@case("thinking")
def _():
    answer = chat(ON_FIRST, thinking={"type": "enabled", "budget_tokens": 1024})
    assert [block.type for block in answer.content] == ["thinking", "text"], answer


@case("tools")
def _():
    asked = chat(ON_BOTH, tools=[weather])
    (call,) = asked.content
    assert asked.stop_reason == "tool_use" and call.name == "weather", asked
    said = {"type": "tool_result", "tool_use_id": call.id, "content": "Sun over Puno."}
    turns = [{"role": "assistant", "content": asked.content}, {"role": "user", "content": [said]}]
    answer = chat(ON_BOTH, hello + turns, tools=[weather])
    assert answer.stop_reason == "end_turn" and answer.content[0].text.strip(), answer


@case("a model that one node holds")
def _():
    for model in [ON_FIRST, ON_SECOND] * 3:
        assert chat(model).model == model


@case("a model that no node holds")
def _():
    for stream in [False, True]:
        error = refuses(lambda: chat(NOWHERE, stream=stream), anthropic.NotFoundError)
        assert "not found" in error.body["error"]["message"], error.body


@case("cancelled in mid-stream")
def _():
    for _ in range(MORE_THAN_SLOTS):
        stall_next_stream()
        stream = chat(ON_SECOND, stream=True)
        next(stream)
        stream.close()
        wait_until_idle()
    assert chat(ON_SECOND).content


@case("a broken stream is an error")
def _():
    break_next_stream()
    breaks(chat(ON_SECOND, stream=True))
    assert chat(ON_SECOND).content
