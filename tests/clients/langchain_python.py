"""LangChain's Ollama package for Python."""
# pip: langchain-ollama==1.1.0

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
    wait_until_idle,
)
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM

settings = {"base_url": os.environ["OLLAMA_HOST"], "client_kwargs": {"timeout": 20}}


def chat(model, **options):
    return ChatOllama(model=model, **settings, **options)


def check_stream(chunks, text):
    assert len(chunks) > 2 and "".join(text(chunk) for chunk in chunks).strip(), chunks


@case("list")
def _():
    for model in [ON_BOTH, ON_FIRST, ON_SECOND]:
        chat(model, validate_model_on_init=True)
    refuses(lambda: chat(NOWHERE, validate_model_on_init=True), ValueError)


@case("chat, streamed")
def _():
    chunks = list(chat(ON_BOTH).stream("Say hello."))
    check_stream(chunks, lambda chunk: chunk.content)


@case("chat, streamed, async")
def _():
    async def chunks():
        return [chunk async for chunk in chat(ON_BOTH).astream("Say hello.")]

    check_stream(asyncio.run(chunks()), lambda chunk: chunk.content)


@case("chat, whole")
def _():
    answer = chat(ON_BOTH).invoke("Say hello.")
    assert answer.content.strip() and answer.response_metadata["done_reason"] == "stop", answer


@case("thinking")
def _():
    answer = chat(ON_FIRST, reasoning=True).invoke("Say hello.")
    assert answer.additional_kwargs["reasoning_content"].strip() and answer.content.strip(), answer


@case("generate, streamed")
def _():
    check_stream(list(OllamaLLM(model=ON_BOTH, **settings).stream("Say hello.")), str)


@case("embed, one and several")
def _():
    embeddings = OllamaEmbeddings(model=EMBEDDING, **settings)
    check_vectors(embeddings.embed_query("llama"), embeddings.embed_documents(TEXTS))


@case("tools")
def _():
    @tool
    def weather(city: str = "Puno") -> str:
        """How the weather is in a city."""
        return f"Sun over {city}."

    model = chat(ON_BOTH).bind_tools([weather])
    hello = HumanMessage("Say hello.")
    asked = model.invoke([hello])
    (call,) = asked.tool_calls
    assert call["name"] == "weather", call
    said = weather.invoke(call)
    assert isinstance(said, ToolMessage) and said.content == "Sun over Puno.", said
    answer = model.invoke([hello, asked, said])
    assert answer.content.strip() and not answer.tool_calls, answer


@case("a model that one node holds")
def _():
    for model in [ON_FIRST, ON_SECOND] * 3:
        assert chat(model).invoke("Say hello.").response_metadata["model"] == model


@case("a model that no node holds")
def _():
    for call in [chat(NOWHERE).invoke, lambda text: list(chat(NOWHERE).stream(text))]:
        error = refuses(lambda: call("Say hello."), ollama.ResponseError)
        assert error.status_code == 404 and "not found" in error.error, (error.status_code, error.error)


@case("cancelled in mid-stream")
def _():
    for _ in range(MORE_THAN_SLOTS):
        stream = chat(ON_SECOND, num_predict=20_000).stream("Say hello.")
        next(stream)
        stream.close()
        wait_until_idle()
    assert chat(ON_SECOND).invoke("Say hello.").content


@case("a broken stream is an error")
def _():
    break_next_stream()
    breaks(chat(ON_SECOND).stream("Say hello."))
    assert chat(ON_SECOND).invoke("Say hello.").content
