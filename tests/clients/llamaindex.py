"""LlamaIndex's Ollama packages."""
# pip: llama-index-llms-ollama==0.11.0 llama-index-embeddings-ollama==0.10.0

import asyncio
import os

import ollama
from cases import (
    EMBEDDING,
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
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.ollama import OllamaEmbedding
from llama_index.llms.ollama import Ollama

host = os.environ["OLLAMA_HOST"]
hello = [ChatMessage(role="user", content="Say hello.")]


def llm(model, **options):
    return Ollama(model=model, base_url=host, request_timeout=20, **options)


def check_stream(parts):
    parts = list(parts)
    assert len(parts) > 2 and "".join(part.delta for part in parts).strip(), parts


@case("show")
def _():
    for model in [ON_BOTH, ON_FIRST, ON_SECOND]:
        assert llm(model).get_context_window() == 131_072


@case("chat, streamed")
def _():
    check_stream(llm(ON_BOTH).stream_chat(hello))


@case("chat, streamed, async")
def _():
    async def parts():
        return [part async for part in await llm(ON_BOTH).astream_chat(hello)]

    check_stream(asyncio.run(parts()))


@case("chat, whole")
def _():
    answer = llm(ON_BOTH).chat(hello)
    assert answer.message.content.strip() and answer.raw["done"], answer


@case("thinking")
def _():
    answer = llm(ON_FIRST, thinking=True).chat(hello)
    assert [block.block_type for block in answer.message.blocks] == ["thinking", "text"], answer


@case("generate, streamed")
def _():
    check_stream(llm(ON_BOTH).stream_complete("Say hello."))


@case("embed, one and several")
def _():
    embedding = OllamaEmbedding(model_name=EMBEDDING, base_url=host)
    check_vectors(embedding.get_text_embedding("llama"), embedding.get_text_embedding_batch(TEXTS))


@case("tools")
def _():
    def weather(city: str = "Puno") -> str:
        """How the weather is in a city."""
        return f"Sun over {city}."

    model = llm(ON_BOTH)
    tool = FunctionTool.from_defaults(weather)
    asked = model.chat_with_tools([tool], chat_history=list(hello))
    (call,) = model.get_tool_calls_from_response(asked)
    assert call.tool_name == "weather", call
    said = ChatMessage(role="tool", content=weather(), additional_kwargs={"tool_call_id": call.tool_id})
    answer = model.chat_with_tools([tool], chat_history=[*hello, asked.message, said])
    assert answer.message.content.strip(), answer


@case("a model that one node holds")
def _():
    for model in [ON_FIRST, ON_SECOND] * 3:
        assert llm(model).chat(hello).raw["model"] == model


@case("a model that no node holds")
def _():
    for call in [llm(NOWHERE).chat, lambda messages: list(llm(NOWHERE).stream_chat(messages))]:
        error = refuses(lambda: call(hello), ollama.ResponseError)
        assert error.status_code == 404 and "not found" in error.error, (error.status_code, error.error)


@case("cancelled in mid-stream")
def _():
    for _ in range(MORE_THAN_SLOTS):
        stall_next_stream()
        stream = llm(ON_SECOND).stream_chat(hello)
        next(stream)
        stream.close()
        wait_until_idle()
    assert llm(ON_SECOND).chat(hello).raw["done"]


@case("a broken stream is an error")
def _():
    break_next_stream()
    breaks(llm(ON_SECOND).stream_chat(hello))
    assert llm(ON_SECOND).chat(hello).raw["done"]
