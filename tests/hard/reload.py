"""Reloads the configuration two hundred times in ten seconds, and nobody may notice.

    reload.py LLAMERO       the program

Meanwhile a hundred streams run and hundreds of small requests come each second. None may fail, no stream may be cut.
"""

import asyncio
import itertools
import json
import os
import signal
import sys
import tempfile
import time

import client
import program

RELOADS = 200
BETWEEN = 0.05  # seconds
WARM_UP = 12  # reloads before those that count, for what is used for the first time
STREAMS = 100
TOKENS = 600  # of each stream, half a minute: more than the storm lasts
SMALL = 8  # clients that send one small request after the other
PAUSE = 0.01  # seconds between two of them
LEAST = 50  # small requests per second that there must be, on the busiest machine
GROWTH = 1.10  # times the memory before the storm
SETTLED = 15.0  # seconds within which everything is given back
MODEL = "llama3.2"
NODE = """
[[node]]
seed = 1
slots = 64
crowding = 0.0
decode_tokens_per_second = 20.0
models = ["llama3.2", "nomic-embed-text"]
"""
STRATEGIES = ["adaptive", "least_connections", "round_robin", "response_time", "ip_hash", "two_choices", "random"]


def config(number, ports):
    """A configuration that differs from its neighbours in everything that may change."""
    nodes = [
        f'[[backend]]\nname = "n{at}"\nurl = "127.0.0.1:{port}"\nweight = {1 + (number + at) % 3}\n'
        + (f"slots = {64 + number % 5}\n" if number % 2 else "")
        + ("drain = true\n" if number % 5 == at else "")
        for at, port in enumerate(ports)
    ]
    if number % 4 == 3:
        nodes.pop(number % len(nodes))
    if number % 3 == 2:
        nodes.reverse()
    return f"""# {number}
listen = "127.0.0.1:0"
strategy = "{STRATEGIES[number % len(STRATEGIES)]}"
early_response = "{number % 2 * 20}s"
admin.listen = "127.0.0.1:0"
{"".join(nodes)}
[queue]
limit = {512 + number}
[health]
interval = "{1 + number % 3}s"
[timeouts]
stream_idle = "{60 + number}s"
[limits]
bodies = "{256 + number}MiB"
"""


class Storm:
    """One reload after the other, in every way that there is."""

    def __init__(self, proxy, file, ports):
        self.proxy, self.file, self.ports, self.number, self.good = proxy, file, ports, 0, None
        self.ways = itertools.cycle([self.signalled, self.signalled, self.found, self.linked, self.faulty, self.again])

    def swap(self, text):
        """Puts a file in the place of the old one, which nobody can read half of."""
        with open(f"{self.file}.new", "w", encoding="utf-8") as new:
            new.write(text)
        os.replace(f"{self.file}.new", self.file)

    def signalled(self):
        self.good = config(self.number, self.ports)
        self.swap(self.good)
        self.proxy.send_signal(signal.SIGHUP)

    def found(self):
        """Nobody says so."""
        self.good = config(self.number, self.ports)
        self.swap(self.good)

    def linked(self):
        """As when a volume is swapped: the name leads to another file."""
        self.good = config(self.number, self.ports)
        target = f"{self.file}.{self.number}"
        with open(target, "w", encoding="utf-8") as new:
            new.write(self.good)
        os.symlink(target, f"{self.file}.link")
        os.replace(f"{self.file}.link", self.file)
        self.proxy.send_signal(signal.SIGHUP)

    def faulty(self):
        """What cannot be put into force changes nothing."""
        self.swap("strategy = 1\n[[backend]]\nurl =\n")
        self.proxy.send_signal(signal.SIGHUP)

    def again(self):
        """The last good one once more."""
        self.swap(self.good)
        self.proxy.send_signal(signal.SIGHUP)

    async def run(self, count):
        for _ in range(count):
            self.number += 1
            next(self.ways)()
            await asyncio.sleep(BETWEEN)
        self.signalled()


def stream_body():
    messages = [{"role": "user", "content": "count the llamas"}]
    return json.dumps({"model": MODEL, "messages": messages, "options": {"num_predict": TOKENS}}).encode()


async def stream(port):
    answer = client.Answer()
    try:
        await client.Connection(port).ask("POST", "/api/chat", stream_body(), "", answer)
    except (client.Broken, OSError) as error:
        return f"{error!r}, after {answer.status} and {answer.body[-200:]!r}"
    return client.text_of(answer)


class Small:
    """Clients that ask little and often."""

    def __init__(self, port):
        self.port, self.count, self.faults, self.over = port, 0, [], False
        texts = ["a", "b", "c"]
        embed = [json.dumps({"model": "nomic-embed-text", "input": text}).encode() for text in texts]
        self.asks = [("POST", "/api/embed", body) for body in embed]
        self.asks += [("GET", "/api/version", b""), ("POST", "/api/show", json.dumps({"model": MODEL}).encode())]
        self.asks += [("GET", "/api/tags", b""), ("GET", "/v1/models", b"")]

    async def work(self):
        connection = client.Connection(self.port)
        for method, path, body in itertools.cycle(self.asks):
            if self.over:
                break
            try:
                answer = await connection.ask(method, path, body)
                if answer.status != 200:
                    self.faults.append(f"{path} got {answer.status}: {answer.body[:300]!r}")
            except (client.Broken, OSError) as error:
                self.faults.append(f"{path}: {error!r}")
            self.count += 1
            await asyncio.sleep(PAUSE)
        connection.close()


async def until(what, condition):
    """Waits until nothing is said against it; returns what is, if that takes too long."""
    deadline = time.monotonic() + SETTLED
    while (against := await condition()) and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    return [f"{what}: {against}"] if against else []


async def storm(path, folder, children):
    fleet = f"{folder}/fleet.toml"
    with open(fleet, "w", encoding="utf-8") as text:
        text.write(NODE)
    ports = []
    for at in range(3):
        node, port = program.mock(path, folder, f"node{at}", ["--fleet", fleet, "--port", "0"])
        children.append(node)
        ports.append(port)
    proxy, port, admin = program.serve(path, config(0, ports), folder)
    children.append(proxy)

    async def is_known():
        backends = (await client.status(admin))["backends"]
        return [backend["name"] for backend in backends if not backend["models"]]

    faults = await until("models are not known", is_known)
    await asyncio.sleep(0.5)  # until who asked is gone
    descriptors = program.descriptors(proxy)
    alone = asyncio.create_task(stream(ports[0]))
    small = Small(port)
    working = [asyncio.create_task(small.work()) for _ in range(SMALL)]
    streams = [asyncio.create_task(stream(port)) for _ in range(STREAMS)]
    await asyncio.sleep(3.0)
    reloading = Storm(proxy, f"{folder}/llamero.toml", ports)
    await reloading.run(WARM_UP)
    before, began, count = program.resident(proxy), time.monotonic(), small.count
    await reloading.run(RELOADS)
    rate = (small.count - count) / (time.monotonic() - began)
    if any(task.done() for task in streams):
        faults.append("streams ended before the storm did")
    after = program.resident(proxy)
    expected = await alone
    ended = await asyncio.gather(*streams)
    await asyncio.sleep(1.0)
    faults += [f"a stream was not whole: {end}" for end in ended if end != expected]
    small.over = True
    await asyncio.gather(*working)
    faults += small.faults

    async def is_back():
        opened = program.descriptors(proxy)  # before this opens one
        said = await client.status(admin)
        busy = [backend["name"] for backend in said["backends"] if backend["in_flight"]]
        return busy or (f"{opened} descriptors, {descriptors} at the start" if opened > descriptors else None)

    faults += await until("not given back", is_back)
    if said := (await client.status(admin))["queue"]["limit"] != 512 + WARM_UP + RELOADS:
        faults.append(f"the last configuration is not in force: {said}")
    with open(f"{folder}/proxy.log", encoding="utf-8") as log:
        log = log.read()
    reloads, refused = log.count("configuration reloaded"), log.count("configuration not reloaded")
    if "panicked" in log:
        faults.append("panic")
    if reloads < RELOADS // 2 or not refused:
        faults.append(f"only {reloads} reloads, {refused} refused")
    if after > before * GROWTH:
        faults.append(f"memory grew from {before >> 10} to {after >> 10} KiB")
    if rate < LEAST:
        faults.append(f"only {rate:.0f} small requests per second")
    print(f"reloads: {reloads} and {refused} refused, under {STREAMS} streams and {rate:.0f} small requests per second")
    print(f"memory: {before >> 10} KiB before, {after >> 10} KiB after; {small.count} small requests")
    return faults


def main(path):
    children = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            faults = asyncio.run(storm(path, folder, children))
        finally:
            for child in children:
                child.kill()
                child.wait()
    for fault in faults[:20]:
        print("FAULT", fault)
    print(f"{len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
