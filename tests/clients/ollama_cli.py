"""What the commands of the `ollama` program send, with the rules by which its Go client reads the answers."""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from urllib.parse import urlsplit

from cases import EMBEDDING, EVERY_MODEL, NOWHERE, ON_BOTH, ON_FIRST, ON_SECOND, break_next_stream, case, refuses

PROXY = os.environ["OLLAMA_HOST"]
NODES = [os.environ["NODE_A"], os.environ["NODE_B"]]
# With its newline.
LONGEST_LINE = 8_000_000
AGENT = "ollama/0.33.0 (amd64 linux) Go/go1.26.0"
# The registry of the simulated nodes has every model but those with this in their names.
NOT_IN_REGISTRY = "missing-from-registry"


class Refused(Exception):
    """What the program prints before it exits with 1."""

    def __init__(self, text, status=200):
        super().__init__(text)
        self.status = status


def send(method, path, body=None, accept="application/json", to=PROXY):
    """A connection and the answer that came over it. The body is an object, or the pieces of a blob."""
    connection = HTTPConnection(urlsplit(to).netloc, timeout=20)
    headers = {"User-Agent": AGENT, "Accept": accept, "Content-Type": "application/json", "Accept-Encoding": "gzip"}
    if isinstance(body, dict):
        body = json.dumps(body)
    try:
        connection.request(method, path, body, headers, encode_chunked=True)
    except (BrokenPipeError, ConnectionResetError):
        pass  # an answer may come before the whole blob went
    return connection, connection.getresponse()


def call(method, path, body=None, to=PROXY):
    """A call whose answer is read as a whole."""
    connection, answer = send(method, path, body, to=to)
    with closing(connection):
        text = answer.read().decode()
    if answer.status >= 400:
        raise refusal(text, answer.status)
    return json.loads(text) if text else None


def stream(path, body, to=PROXY):
    """A call whose answer is read line by line, also where it is a single line."""
    connection, answer = send("POST", path, body, "application/x-ndjson", to)
    records = []
    with closing(connection):
        while line := answer.readline(LONGEST_LINE + 1):
            assert len(line) <= LONGEST_LINE, "bufio.Scanner: token too long"
            assert line.strip(), "an empty line is an error with an empty text"
            record = json.loads(line)
            if answer.status >= 400:
                assert not answer.readline(), "an error of more than one line"
                raise refusal(line, answer.status)
            if record.get("error"):
                raise Refused(record["error"])
            records.append(record)
    assert answer.status < 400, f"status {answer.status} without a body is taken for a success"
    return records


def refusal(text, status):
    error = json.loads(text)["error"]
    assert error and "\n" not in error, text
    return Refused(error, status)


def command(run):
    """Every command asks first whether somebody is there."""

    def started(*arguments):
        connection, answer = send("HEAD", "/")
        with closing(connection):
            assert answer.status < 400 and answer.read() == b"", answer.status
        return run(*arguments)

    return started


@command
def ollama_list():
    return call("GET", "/api/tags")["models"]


@command
def ollama_ps():
    return call("GET", "/api/ps")["models"]


@command
def ollama_show(model):
    return call("POST", "/api/show", {"model": "", "system": "", "template": "", "verbose": False, "name": model})


@command
def ollama_run(model, prompt=None, turns=()):
    """One answer to a prompt, or the answers to the turns of a conversation."""
    try:
        shown = call("POST", "/api/show", {"model": model})
    except Refused as error:
        if error.status != 404:
            raise
        stream("/api/pull", {"model": "", "name": model})
        shown = call("POST", "/api/show", {"model": model})
    if "embedding" in shown["capabilities"]:
        return call("POST", "/api/embed", {"model": model, "input": prompt})["embeddings"][0]
    if prompt:
        parts = stream("/api/generate", {"model": model, "prompt": prompt, "options": {}})
        return "".join(part["response"] for part in parts)
    stream("/api/generate", {"model": model, "prompt": ""})
    messages = []
    for turn in turns:
        messages.append({"role": "user", "content": turn})
        parts = stream("/api/chat", {"model": model, "messages": messages, "options": {}})
        assert len(parts) > 2 and parts[-1]["done"], parts
        messages.append({"role": "assistant", "content": "".join(part["message"]["content"] for part in parts)})
    return messages


@command
def ollama_stop(model):
    _stop(model)


def _stop(model):
    call("POST", "/api/show", {"model": model})
    stream("/api/generate", {"model": model, "prompt": "", "keep_alive": "0s", "options": None})


@command
def ollama_pull(model):
    return stream("/api/pull", {"model": "", "name": model})


@command
def ollama_create(model, files):
    """From files, sent side by side and in pieces, or from a model if `files` is its name."""
    if isinstance(files, str):
        return stream("/api/create", {"model": model, "from": files})

    def upload(content):
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        pieces = (content[at : at + 32_768] for at in range(0, len(content), 32_768))
        connection, answer = send("POST", f"/api/blobs/{digest}", pieces)
        with closing(connection):
            assert answer.status in (200, 201), (answer.status, answer.read())
        return digest

    with ThreadPoolExecutor(len(files)) as several:
        digests = list(several.map(upload, files.values()))
    return stream("/api/create", {"model": model, "files": dict(zip(files, digests))})


@command
def ollama_cp(source, destination):
    call("POST", "/api/copy", {"source": source, "destination": destination})


@command
def ollama_rm(model):
    try:
        _stop(model)
    except Refused:
        pass  # it only warns
    call("DELETE", "/api/delete", {"model": "", "name": model})


def names(models):
    return [model["name"] for model in models]


def holders(model, what="tags"):
    """The nodes that have a model, or with `ps` those that have it loaded."""
    return [node for node in NODES if model in names(call("GET", f"/api/{what}", to=node)["models"])]


def check_progress(records):
    """One success, at the end, and per digest a bar that never runs backwards and gets full."""
    statuses = [record["status"] for record in records]
    assert statuses.count("success") == 1 and statuses[-1] == "success", statuses
    done = {}
    for record in records:
        if "digest" in record:
            assert len(record["digest"]) >= 19, record
            assert done.get(record["digest"], 0) <= record.get("completed", 0) <= record["total"], record
            done[record["digest"]] = record.get("completed", 0)
    totals = {record["digest"]: record["total"] for record in records if "digest" in record}
    assert done == totals, (done, totals)


@case("list")
def _():
    models = ollama_list()
    assert sorted(names(models)) == EVERY_MODEL, names(models)
    for model in models:
        assert len(model["digest"]) == 64 and model["size"] > 0 and model["modified_at"], model
    times = [model["modified_at"] for model in models]
    assert times == sorted(times, reverse=True), times


@case("show")
def _():
    for model in [ON_BOTH, ON_FIRST, ON_SECOND]:
        shown = ollama_show(model)
        assert shown["details"]["family"] and shown["model_info"]["general.architecture"], shown
    assert refuses(lambda: ollama_show(NOWHERE), Refused).status == 404


@case("version")
def _():
    assert call("GET", "/api/version") == {"version": "0.33.0"}


@case("run, one prompt")
def _():
    for model in [ON_BOTH, ON_FIRST, ON_SECOND]:
        assert ollama_run(model, "Say hello.").strip()
    assert all(isinstance(number, float) for number in ollama_run(EMBEDDING, "llama"))


@case("run, a conversation")
def _():
    messages = ollama_run(ON_SECOND, None, ["Say hello.", "Again.", "And goodbye."])
    assert len(messages) == 6 and all(message["content"].strip() for message in messages), messages


@case("run, pulled first")
def _():
    assert ollama_run("phi4:14b", "Say hello.").strip()
    assert holders("phi4:14b") == NODES, holders("phi4:14b")


@case("run, not to be had")
def _():
    error = refuses(lambda: ollama_run(NOT_IN_REGISTRY, "Say hello."), Refused)
    assert str(error) == "pull model manifest: file does not exist", error
    assert not holders(NOT_IN_REGISTRY + ":latest")


@case("ps")
def _():
    ollama_run(ON_FIRST)
    ollama_run(ON_SECOND)
    models = ollama_ps()
    loaded = {model["name"]: model for model in models}
    assert len(loaded) == len(models), f"a model is listed twice: {names(models)}"
    assert {"deepseek-r1:latest", ON_SECOND} <= loaded.keys(), names(models)
    for model in loaded.values():
        assert len(model["digest"]) == 64 and model["context_length"] and model["expires_at"], model
        assert model["size"] >= model["size_vram"] > 0, model


@case("stop")
def _():
    for node in NODES:
        stream("/api/generate", {"model": ON_BOTH, "prompt": ""}, to=node)
    assert holders("llama3.2:latest", "ps") == NODES
    ollama_stop(ON_BOTH)
    assert holders("llama3.2:latest", "ps") == [], "it is still loaded"
    assert "llama3.2:latest" not in names(ollama_ps())
    assert refuses(lambda: ollama_stop(NOWHERE), Refused).status == 404


@case("pull")
def _():
    check_progress(ollama_pull("gemma3:4b"))
    assert holders("gemma3:4b") == NODES, holders("gemma3:4b")
    assert "gemma3:4b" in names(ollama_list())
    check_progress(ollama_pull("gemma3:4b"))
    error = refuses(lambda: ollama_pull(NOT_IN_REGISTRY), Refused)
    assert str(error) == "pull model manifest: file does not exist", error


@case("create, from files")
def _():
    files = {f"part-{n}.gguf": bytes([n]) * 300_000 for n in range(3)}
    records = ollama_create("bot", files)
    check_progress(records)
    assert holders("bot:latest") == NODES, holders("bot:latest")
    for _ in NODES * 2:
        assert ollama_run("bot", "Say hello.").strip()
    # Now every node has the files, and says so without reading them.
    check_progress(ollama_create("bot2", files))


@case("create, from a model")
def _():
    check_progress(ollama_create("mario", ON_BOTH))
    assert holders("mario:latest") == NODES, holders("mario:latest")
    assert ollama_run("mario", "Say hello.").strip()


@case("cp")
def _():
    for model, name in [(ON_BOTH, "llama3.2:latest"), (ON_FIRST, "deepseek-r1:latest"), (ON_SECOND, ON_SECOND)]:
        copy = "copy-of-" + model.replace(":", "-")
        ollama_cp(model, copy)
        assert holders(f"{copy}:latest") == holders(name), copy
        assert ollama_run(copy, "Say hello.").strip()
    assert refuses(lambda: ollama_cp(NOWHERE, "copy"), Refused).status == 404


@case("rm")
def _():
    for model, name in [(ON_BOTH, "llama3.2:latest"), (ON_SECOND, ON_SECOND)]:
        ollama_rm(model)
        assert holders(name) == [], holders(name)
        assert name not in names(ollama_list())
        for command in [ollama_rm, ollama_show]:
            assert refuses(lambda: command(model), Refused).status == 404


@case("a model that no node holds")
def _():
    messages = [{"role": "user", "content": "Say hello."}]
    for path, asked in [("generate", {"prompt": "Say hello."}), ("chat", {"messages": messages})]:
        error = refuses(lambda: stream(f"/api/{path}", {"model": NOWHERE, **asked}), Refused)
        assert error.status == 404 and "not found" in str(error), (error.status, error)


@case("a broken stream is an error")
def _():
    break_next_stream("NODE_A")
    error = refuses(lambda: ollama_run(ON_FIRST, "Say hello."), Refused)
    assert error.status == 200 and str(error), error
    assert ollama_run(ON_FIRST, "Say hello.").strip()
