"""Minutes of mixed work by clients that leave when they like, on nodes that fail in every way.

    soak.py LLAMERO [SECONDS]       the program, and for how long

Every ten seconds one of four nodes gets a fault. Whatever has no part in a fault must be right to the byte. In the end
every request must be accounted for, and everything that was taken must have been given back.
"""

import asyncio
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter

import client
import program

SEED = 7
NODES = 4
WORKERS = 40
PAUSE = 0.5  # seconds that a client thinks at most
PATIENCE = 20.0  # seconds after which a client leaves; far more than anything takes that has no part in a fault
EVERY = 10.0  # seconds between two faults
FAULT = 3.0  # seconds that a fault lasts
AFTERMATH = 3.0  # seconds after its end in which it may still be felt
LEAVES = 0.1  # share of the clients that leave before their answer's end
WARM_UP = 30.0  # seconds after which memory counts, or a third of the whole
GROWTH = 1.15  # times the memory after the warm-up
SLACK = 8 << 20  # bytes besides
SETTLED = 15.0  # seconds within which everything is given back
UPLOAD = 200_000  # bytes
FLEET = """
[[node]]
seed = 1
slots = 4
time_scale = 10.0
models = ["llama3.2", "nomic-embed-text"]
"""
CONFIG = """
listen = "127.0.0.1:0"
admin.listen = "127.0.0.1:0"
[health]
interval = "1s"
timeout = "500ms"
[timeouts]
stream_idle = "5s"
control = "5s"
"""
BACKEND = """
[[backend]]
name = "n{at}"
url = "127.0.0.1:{port}"
"""
# What a node can be told to do wrong.
TOLD = [
    "error_500",
    "busy_503",
    "load_failure",
    "not_found_404",
    "reset_mid_stream",
    "fin_mid_stream",
    "reset_before_headers",
    "fin_before_headers",
    "garbage",
    "stall_mid_stream",
    "slow_drip",
    "clean_end_without_done",
    "error_in_stream",
    "hang_before_headers",
    "refuse",
]


def asks():
    """Requests by kind: method, path, body."""
    texts = [f"tell me of llama number {number} " * (1 + number * 7 % 40) for number in range(30)]
    messages = [[{"role": "user", "content": text}] for text in texts]
    lengths = [5 + number * 11 % 60 for number in range(30)]
    model = "llama3.2"

    def post(path, bodies):
        return [("POST", path, json.dumps(body).encode()) for body in bodies]

    def native(rest):
        pairs = zip(messages, lengths)
        return [{"model": model, "messages": said, "options": {"num_predict": n}, **rest} for said, n in pairs]

    openai = [{"model": model, "messages": said, "stream": True, "max_tokens": n} for said, n in zip(messages, lengths)]
    return {
        "chat": post("/api/chat", native({})),
        "openai": post("/v1/chat/completions", openai),
        "whole": post("/api/chat", native({"stream": False})),
        "embed": post("/api/embed", [{"model": "nomic-embed-text", "input": text} for text in texts]),
        "show": post("/api/show", [{"model": model}]),
        "version": [("GET", "/api/version", b"")],
        "tags": [("GET", "/api/tags", b"")],
        "ps": [("GET", "/api/ps", b"")],
        "upload": [("POST", None, None)],
    }


WEIGHTS = {"chat": 6, "openai": 4, "whole": 2, "embed": 4, "show": 2, "version": 2, "tags": 1, "ps": 1, "upload": 1}


def meaning(kind, answer):
    """What must be the same whoever answers; `None` if the answer is not whole."""
    if kind in ("chat", "openai"):
        return streamed(kind, answer.body)
    if not answer.is_whole or answer.status not in (200, 201):
        return None
    if kind == "upload":
        return answer.status
    said = json.loads(answer.body)
    if kind == "whole":
        return said["message"]["content"]
    if kind == "embed":
        return said["embeddings"]
    if kind in ("ps", "tags"):
        return sorted({model["name"] for model in said["models"]}) if kind == "tags" else "models" in said
    return said


def streamed(kind, body):
    text = ""
    for line in body.decode().split("\n"):
        if kind == "openai":
            if not line.startswith("data:"):
                continue
            line = line[5:].strip()
            if line == "[DONE]":
                return text
        try:
            record = json.loads(line)
        except ValueError:
            return None  # cut off
        if "error" in record:
            return None
        if kind == "openai":
            text += "".join(choice["delta"].get("content") or "" for choice in record["choices"])
            continue
        text += record["message"]["content"]
        if record["done"]:
            return text
    return None


class Nodes:
    """The simulated nodes, each a process of its own, and when which had a fault."""

    def __init__(self, path, folder):
        self.path, self.folder, self.troubles, self.told = path, folder, [], Counter()
        self.file = f"{folder}/fleet.toml"
        with open(self.file, "w", encoding="utf-8") as text:
            text.write(FLEET)
        self.processes, self.ports = [], []
        for at in range(NODES):
            process, port = self.start(at, 0)
            self.processes.append(process)
            self.ports.append(port)

    def start(self, at, port):
        return program.mock(self.path, self.folder, f"node{at}", ["--fleet", self.file, "--port", str(port)])

    def end(self):
        for process in self.processes:
            process.kill()
            process.wait()

    def faulty(self, began, ended):
        """The nodes that a fault may have been felt on in this time."""
        return {f"n{at}" for at, since, until in self.troubles if began < until + AFTERMATH and ended > since}

    async def fail(self, chance, kind):
        """Has a fault, and ends when it is over."""
        at = chance.randrange(NODES)
        trouble = [at, time.monotonic(), float("inf")]
        self.troubles.append(trouble)
        self.told[kind] += 1
        if kind == "kill":
            self.processes[at].kill()
            self.processes[at].wait()
            await asyncio.sleep(FAULT)
            self.processes[at], _ = await asyncio.to_thread(self.start, at, self.ports[at])
        elif kind == "stop":
            self.processes[at].send_signal(signal.SIGSTOP)
            await asyncio.sleep(FAULT)
            self.processes[at].send_signal(signal.SIGCONT)
        else:
            body = json.dumps({"kind": kind, "for": f"{FAULT}s", "after": 1 + at}).encode()
            connection = client.Connection(self.ports[at])
            answer = await connection.ask("POST", "/mock/fault", body)
            connection.close()
            assert answer.status == 204, answer.body
            await asyncio.sleep(FAULT)
        trouble[2] = time.monotonic()

    async def fail_again_and_again(self, until):
        chance = random.Random(SEED)
        kinds = []
        while time.monotonic() + EVERY < until:
            if not kinds:
                kinds = [*TOLD, "kill", "stop", "kill", "stop"]
                chance.shuffle(kinds)
            began = time.monotonic()
            await self.fail(chance, kinds.pop())
            await asyncio.sleep(max(0.0, EVERY - (time.monotonic() - began)))


class Crowd:
    """Clients, and what became of their requests."""

    def __init__(self, port, nodes, expected):
        self.port, self.nodes, self.expected, self.asks = port, nodes, expected, asks()
        self.chance, self.next = random.Random(SEED), 0
        self.sent, self.faults = {}, []  # by name: how it ended for the client, and its status
        self.ends = Counter()

    async def work(self, until):
        connection = client.Connection(self.port)
        while time.monotonic() < until:
            await self.request(connection)
            await asyncio.sleep(self.chance.random() * PAUSE)
        connection.close()

    def leaving(self):
        """How a client will leave, if it will: a test of the answer so far."""
        if self.chance.random() >= LEAVES:
            return None
        enough = self.chance.randrange(1, 3000)
        return lambda answer: len(answer.body) >= enough

    async def request(self, connection):
        self.next += 1
        name = f"r{self.next}"
        kind = self.chance.choices(list(WEIGHTS), WEIGHTS.values())[0]
        place = self.chance.randrange(len(self.asks[kind]))
        method, path, body = self.asks[kind][place]
        leave, patience = None, PATIENCE
        if kind == "upload":
            content = self.chance.randbytes(UPLOAD)
            path = f"/api/blobs/sha256:{hashlib.sha256(content).hexdigest()}"
            body = (content[: UPLOAD // 2], UPLOAD) if self.chance.random() < LEAVES else content
            patience = 0.3 if isinstance(body, tuple) else PATIENCE
        elif kind in ("chat", "openai"):
            leave = self.leaving()
        elif self.chance.random() < LEAVES:
            patience = self.chance.random() * 0.3
        answer, began, how = client.Answer(), time.monotonic(), "whole"
        try:
            await asyncio.wait_for(connection.ask(method, path, body, name, answer, leave), patience)
            if not answer.is_whole:
                how = "left"
        except TimeoutError:
            how = "left"
        except (client.Broken, OSError) as error:
            how = f"broken: {error!r}"
        self.judge(name, kind, place, answer, how, began, patience == PATIENCE)

    def judge(self, name, kind, place, answer, how, began, is_patient):
        ended = time.monotonic()
        self.sent[name] = (how, answer.status)
        faulty = self.nodes.faulty(began, ended)
        node = answer.headers.get("x-llamero-backend")
        has_part = node in faulty or (faulty and (node is None or kind == "upload"))
        found = meaning(kind, answer) if answer.status else None
        wanted = 201 if kind == "upload" else self.expected[kind][place]
        about = f"{name}, a {kind} on {node} after {ended - began:.2f} s, {how}, {answer.status}: {answer.body[-300:]!r}"
        if found is not None and found != wanted:
            self.faults.append(f"wrong: {about}")
        elif how == "left" and ended - began >= PATIENCE and not has_part:
            self.faults.append(f"too slow: {about}")
        elif how.startswith("broken") and answer.status is None:
            self.faults.append(f"no answer: {about}")
        elif how != "left" and found is None and not has_part:
            self.faults.append(f"failed without a fault: {about}")
        is_right = found is not None
        self.ends["left" if how == "left" else "right" if is_right else "failed with a fault"] += 1


def lines(log):
    """The access log, by the names of requests, and whatever else is an alarm."""
    by_name, alarms = {}, []
    with open(log, encoding="utf-8") as text:
        for line in text:
            if "panicked" in line:
                alarms.append(f"panic: {line}")
            if '"llamero::access"' in line:
                entry = json.loads(line)
                if entry["id"] in by_name:
                    alarms.append(f"logged twice: {line}")
                by_name[entry["id"]] = entry
    return by_name, alarms


def ledger(sent, log):
    """Whether every request that came is logged once, and as its client saw it."""
    by_name, faults = lines(log)
    ends = Counter(by_name[name]["ended"] for name in sent if name in by_name)
    for name, (how, status) in sent.items():
        entry = by_name.get(name)
        if entry is None:
            # Who leaves at once may not even have been noticed.
            if how != "left" or status is not None:
                faults.append(f"{name} is not in the log, its client: {how}, {status}")
            continue
        ended = entry["ended"]
        fits = {
            "whole": ended in ("complete", "truncated", "refused", "backend_broke"),
            "left": True,
        }.get(how, ended in ("backend_broke", "refused"))
        if not fits or (status is not None and entry["status"] != status):
            faults.append(f"its client says {how}, {status}, the log {entry}")
    if unknown := set(by_name) - set(sent):
        faults.append(f"nobody sent {sorted(unknown)[:5]}")
    return ends, faults


async def settled(proxy, admin, descriptors):
    """What was not given back in time."""
    deadline = time.monotonic() + SETTLED
    while True:
        opened = program.descriptors(proxy)  # before this opens one
        status = await client.status(admin)
        busy = {backend["name"]: backend["in_flight"] for backend in status["backends"] if backend["in_flight"]}
        faults = [f"still in flight: {busy}"] if busy else []
        if opened > descriptors:
            faults.append(f"{opened} descriptors, {descriptors} at the start")
        waiting = status["queue"]["waiting"]
        if waiting:
            faults.append(f"{waiting} requests wait for nobody")
        down = [backend["name"] for backend in status["backends"] if backend["state"] != "up"]
        if down:
            faults.append(f"not up again: {down}")
        if not faults or time.monotonic() > deadline:
            return faults
        await asyncio.sleep(0.2)


async def expectations(port):
    """What one node alone answers."""
    connection = client.Connection(port)
    expected = {}
    for kind, requests in asks().items():
        if kind != "upload":
            answers = [await connection.ask(*request) for request in requests]
            expected[kind] = [meaning(kind, answer) for answer in answers]
            assert None not in expected[kind], kind
    connection.close()
    return expected


async def soak(path, seconds, folder, nodes):
    config = CONFIG + "".join(BACKEND.format(at=at, port=port) for at, port in enumerate(nodes.ports))
    proxy, port, admin = program.serve(path, config, folder)
    nodes.processes.append(proxy)
    expected = await expectations(nodes.ports[0])
    await asyncio.sleep(2.0)  # its checks are under way
    descriptors = program.descriptors(proxy)
    crowd = Crowd(port, nodes, expected)
    until = time.monotonic() + seconds
    working = asyncio.gather(*(crowd.work(until) for _ in range(WORKERS)))
    failing = asyncio.create_task(nodes.fail_again_and_again(until))
    await asyncio.sleep(min(WARM_UP, seconds / 3))
    warm = program.resident(proxy)
    await working
    await failing
    faults = crowd.faults + await settled(proxy, admin, descriptors)
    grown = program.resident(proxy)
    if grown > warm * GROWTH + SLACK:
        faults.append(f"memory grew from {warm >> 10} to {grown >> 10} KiB")
    proxy.terminate()
    if proxy.wait(program.PATIENCE) != 0:
        faults.append(f"it ended with {proxy.returncode}")
    ends, unaccounted = ledger(crowd.sent, f"{folder}/proxy.log")
    faults += unaccounted
    print(f"soak: {len(crowd.sent)} requests in {seconds:.0f} s: {dict(crowd.ends)}")
    finished, failed = ends["complete"] + ends["truncated"], ends["backend_broke"] + ends["refused"]
    accepted = finished + failed + ends["client_gone"]
    print(f"accepted {accepted} = finished {finished} + failed {failed} + cancelled {ends['client_gone']}")
    print(f"faults of nodes: {dict(nodes.told)}")
    print(f"memory: {warm >> 10} KiB when warm, {grown >> 10} KiB at the end")
    if not crowd.ends["right"]:
        faults.append("nothing was right")
    return faults


def main(path, seconds):
    with tempfile.TemporaryDirectory() as folder:
        nodes = Nodes(path, folder)
        try:
            faults = asyncio.run(soak(path, seconds, folder, nodes))
        finally:
            nodes.end()
            if keep := os.environ.get("SOAK_LOG"):
                os.replace(f"{folder}/proxy.log", keep)
    for fault in faults[:20]:
        print("FAULT", fault)
    print(f"{len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 180.0))
