"""Takes the network away from under a proxy: cables that are pulled, packets that vanish, get lost or are overtaken,
names that lead elsewhere.

    network.py LLAMERO [SCENARIO ...]       the program, and what happens to it; without a name, everything

The proxy and each node have a network namespace of their own, and the clients are beside the proxy. Where there can be
no namespaces it says so, and tests nothing.
"""

import asyncio
import itertools
import json
import random
import signal
import subprocess
import sys
import tempfile
import time

import client
import program
from namespaces import HOSTS, NODES, SEED, Net, Wire

PATIENCE = 25.0  # seconds after which a request hangs
SLACK = 1.0  # seconds that a busy machine may add to any time
RATE = 20  # tokens per second
ROOMY, NARROW = 11434, 11435
SLOTS = {ROOMY: 16, NARROW: 2}  # by the ports of the two nodes on each host: answers written at once
NODE = """
[[node]]
port = {port}
slots = {slots}
seed = {seed}
crowding = 0.0
load_bytes_per_second = 2e11
decode_tokens_per_second = {rate}
"""
CONNECT, CONTROL, IDLE = 1, 2, 3  # seconds, as below
CONFIG = """
listen = "127.0.0.1:0"
admin.listen = "127.0.0.1:0"
strategy = "{strategy}"
[health]
interval = "{interval}s"
timeout = "500ms"
[timeouts]
connect = "{connect}s"
control = "2s"
stream_idle = "3s"
"""
BACKEND = """
[[backend]]
name = "{name}"
url = "{address}:{port}"
"""
DOWN = 2.9  # seconds until two checks have failed, which come within 1.2 s of each other and take half of one
BACK = 2.0  # seconds until two checks of a node that can be reached have passed
FORGOTTEN = 10.0  # seconds after which nobody is sent to a name's old address
REFUSED = 50.0  # milliseconds that a refusal may take
HERD = 2 * SLOTS[NARROW] + 1  # requests that a node with two slots may have at a time while sixty want in
FLAPS = 5


class Reply(client.Answer):
    """An answer, how it ended and when."""

    def __init__(self):
        super().__init__()
        self.began, self.ended, self.how = time.monotonic(), None, "whole"

    took = property(lambda self: self.ended - self.began)
    node = property(lambda self: self.headers.get("x-llamero-backend"))

    def meaning(self):
        """What must be the same whoever answers; `None` for what is no whole answer."""
        if self.headers.get("content-type") == "application/x-ndjson":
            return client.text_of(self)
        said = json.loads(self.body) if self.is_whole and self.status == 200 else {}
        return said.get("embeddings") or said.get("details")

    def error(self):
        """What it says of its failure, in the end."""
        last = self.body.rstrip(b"\n").rpartition(b"\n")[2]
        try:
            return json.loads(last).get("error")
        except ValueError:
            return None

    def __str__(self):
        about = f"{self.status} of {self.node}, {self.how}, after {self.took:.2f} s"
        return f"{about}: {self.body[-200:]!r}"


async def send(port, path, body):
    reply, connection = Reply(), client.Connection(port)
    try:
        asking = connection.ask("POST", path, json.dumps(body).encode(), "", reply)
        await asyncio.wait_for(asking, PATIENCE)
    except TimeoutError:
        reply.how = "hangs"
    except (client.Broken, OSError) as error:
        reply.how = f"broken ({error})"
    connection.close()
    reply.ended = time.monotonic()
    return reply


def chat(port, tokens):
    messages = [{"role": "user", "content": "count the llamas"}]
    return send(port, "/api/chat", {"model": "llama3.2", "messages": messages, "options": {"num_predict": tokens}})


def embed(port):
    return send(port, "/api/embed", {"model": "nomic-embed-text", "input": "a llama"})


def show(port):
    return send(port, "/api/show", {"model": "llama3.2"})


class Crowd:
    """Requests at a rate, one kind after the other, until it is over."""

    def __init__(self, port, kinds, per_second):
        self.port, self.is_over = port, False
        self.task = asyncio.create_task(self.work(kinds, 1 / per_second))

    async def work(self, kinds, pause):
        sent = []
        for kind in itertools.cycle(kinds):
            if self.is_over:
                return await asyncio.gather(*sent)
            sent.append(asyncio.create_task(kind(self.port)))
            await asyncio.sleep(pause)

    async def end(self):
        """All that came back."""
        self.is_over = True
        return await self.task


class Site:
    """The nodes, a proxy for each scenario, and what was wrong."""

    def __init__(self, path, folder, net):
        self.path, self.folder, self.net = path, folder, net
        self.children, self.faults, self.scenario = [], [], None
        self.proxy = self.port = self.admin = None

    def start_nodes(self):
        for host in NODES:
            fleet, log = f"{self.folder}/{host}.toml", f"{self.folder}/{host}.log"
            seed = 2 if host == "c" else 1  # it says other things
            with open(fleet, "w", encoding="utf-8") as text:
                for port, slots in SLOTS.items():
                    text.write(NODE.format(port=port, slots=slots, seed=seed, rate=float(RATE)))
            command = [*self.net.within(host), self.path, "mock", "--host", HOSTS[host], "--fleet", fleet]
            self.children.append(program.start(command, log))
            program.await_line(self.children[-1], log, "Ctrl-C stops")

    async def serve(self, strategy, port=ROOMY, a=HOSTS["a"], interval=1, connect=CONNECT):
        """A new proxy, once it knows what its nodes have."""
        config = CONFIG.format(strategy=strategy, interval=interval, connect=connect)
        for name, address in [("a", a), ("b", HOSTS["b"])]:
            config += BACKEND.format(name=name, address=address, port=port)
            config += f"slots = {SLOTS[port]}\n" if port == ROOMY else ""
        within = self.net.within("lb")
        self.proxy, self.port, self.admin = program.serve(self.path, config, self.folder, within)
        await self.until(lambda backends: all(backend["models"] for backend in backends.values()))

    def end(self):
        if self.proxy:
            self.proxy.kill()
            self.proxy.wait()
            self.proxy = None

    def log(self):
        with open(f"{self.folder}/proxy.log", encoding="utf-8") as log:
            return log.read()

    async def backends(self):
        return {backend["name"]: backend for backend in (await client.status(self.admin))["backends"]}

    async def until(self, holds):
        """The seconds until the backends are as wanted."""
        began = time.monotonic()
        while not holds(await self.backends()):
            if time.monotonic() > began + program.PATIENCE:
                return float("inf")
            await asyncio.sleep(0.03)
        return time.monotonic() - began

    def until_state(self, state, *names):
        return self.until(lambda backends: all(backends[name]["state"] == state for name in names))

    def check(self, is_right, fault):
        if not is_right:
            self.faults.append(f"{self.scenario}: {fault}")

    def check_all(self, replies, wanted):
        """Each must mean one of these."""
        for reply in replies:
            self.check(reply.meaning() and reply.meaning() in wanted, f"wrong: {reply}")


async def partition(site):
    """A cable is pulled under streams and small requests."""
    await site.serve("least_connections")
    known = [(await kind(site.port)).meaning() for kind in (embed, show)]
    streams = [asyncio.create_task(chat(site.port, 9 * RATE)) for _ in range(20)]
    crowd = Crowd(site.port, [embed, show], 50)
    await asyncio.sleep(2.0)
    site.net.pull("a")
    cut = time.monotonic()
    down = await site.until_state("down", "a")
    await asyncio.sleep(cut + 6.0 - time.monotonic())
    site.net.plug("a")
    back = await site.until_state("up", "a")
    await asyncio.sleep(1.0)
    small, streams = await crowd.end(), await asyncio.gather(*streams)
    whole = [reply for reply in streams if reply.node == "b"]
    broken = [reply for reply in streams if reply.node == "a"]
    site.check(min(len(whole), len(broken)) >= 5, f"{len(whole)} and {len(broken)} streams")
    site.check_all(whole, [whole[0].meaning()])
    for reply in broken:
        is_told = reply.error() and reply.how.startswith("broken")
        # A silence is noticed a quarter late at most.
        site.check(is_told and reply.ended < cut + IDLE * 5 / 4 + SLACK, f"no error in time: {reply}")
    touched = [reply for reply in small if cut - CONTROL < reply.began < cut + down]
    failed = [reply for reply in touched if reply.status in (502, 503, 504)]
    site.check_all([reply for reply in small if reply not in failed], known)
    site.check(all(reply.error() for reply in failed), "errors that say nothing")
    slowest = max(small, key=lambda reply: reply.took)
    site.check(slowest.took < max(DOWN, CONTROL) + SLACK, f"too slow: {slowest}")
    site.check(down < DOWN + SLACK and back < BACK + SLACK, f"down after {down:.2f} s, back after {back:.2f} s")
    last = max(reply.ended for reply in broken) - cut
    print(f"partition: down {down:.2f} s after its cable was pulled, up {back:.2f} s after it was back")
    print(f"  {len(broken)} streams ended with an error within {last:.2f} s, {len(whole)} of the other node were whole")
    print(f"  {len(small)} small requests, {len(failed)} failed, the slowest took {slowest.took:.2f} s")


async def black_hole(site):
    """A node vanishes, and no check comes to notice it."""
    await site.serve("round_robin", interval=60)
    with site.net.vanished("a"):
        first = await asyncio.gather(*(chat(site.port, 1) for _ in range(4)))
        state = (await site.backends())["a"]["state"]
        later = [await chat(site.port, 1) for _ in range(50)]
    back = await site.until_state("up", "a")
    site.check_all(first + later, [first[0].meaning()])
    slow, slow_later = (max(reply.took for reply in replies) for replies in (first, later))
    site.check(CONNECT <= slow < CONNECT + SLACK, f"the first took {slow:.2f} s")
    site.check(state == "down", f"the node is {state} after them")
    site.check(slow_later < CONNECT / 2, f"later ones took up to {slow_later:.2f} s")
    site.check(all(reply.headers["x-llamero-attempts"] == "1" for reply in later), "later ones were tried on it")
    site.check(back < BACK + SLACK, f"back after {back:.2f} s")
    print(f"black hole: the first four took up to {slow:.2f} s, the next fifty {slow_later * 1000:.0f} ms")
    print(f"  up {back:.2f} s after it was back")


async def dead_address(site):
    """A name has two addresses, and the first is a black hole."""
    site.net.call("moving", ["a", "c"])
    with site.net.vanished("a"):
        await site.serve("round_robin", a="moving")
        replies = [await chat(site.port, 1) for _ in range(6)]
    site.net.call("moving", ["a"])
    there, slow = sum(reply.node == "a" for reply in replies), max(reply.took for reply in replies)
    site.check(all(reply.meaning() for reply in replies), "a request failed")
    site.check(there == 3 and slow < CONNECT, f"{there} went to the living address, the slowest took {slow:.2f} s")
    print(f"dead address: {there} requests to the one behind it, the slowest took {slow:.2f} s")


async def bad_wire(site):
    """Frames get lost and are overtaken, 50 ms there and back."""
    # A lost request for a connection is sent again after a second.
    await site.serve("least_connections", interval=5, connect=2 * CONNECT)
    known = (await chat(site.port, 10)).meaning()
    try:
        async with Wire(site.net) as wire:
            rounds = [await asyncio.gather(*(chat(site.port, 10) for _ in range(50))) for _ in range(4)]
    except OSError as error:
        print(f"note: no wire of our own ({error}); nothing is lost or overtaken")
        return
    replies = sum(rounds, [])
    site.check_all(replies, [known])
    slow = max(reply.took for reply in replies)
    print(f"bad wire: {len(replies)} requests, {wire.lost} of {wire.carried} frames lost, the slowest took {slow:.2f} s")


async def moved_name(site):
    """A name gets another address while there are streams, and then none."""
    await site.serve("round_robin", a="moving")
    old = (await chat(site.port, 2)).meaning()
    streams = [asyncio.create_task(chat(site.port, 14 * RATE)) for _ in range(8)]
    crowd = Crowd(site.port, [lambda port: chat(port, 2)], 10)
    await asyncio.sleep(1.0)
    site.net.call("moving", ["c"])
    moved = time.monotonic()
    streams = await asyncio.gather(*streams)
    small = await crowd.end()
    site.check_all(streams, [streams[0].meaning()])
    site.check({reply.node for reply in streams} == {"a", "b"}, "all streams are on one node")
    there = [reply for reply in small if reply.node == "a"]
    new = [reply for reply in there if reply.meaning() != old]
    site.check_all(small, [old, new and new[-1].meaning()])
    late = max((reply.began for reply in there if reply.meaning() == old), default=moved) - moved
    site.check(new and late < FORGOTTEN + SLACK, f"the old address is asked {late:.2f} s after the name moved")
    print(f"moved name: {len(streams)} streams whole, the old address was last asked {late:.2f} s after the move")
    site.net.call("moving", [])
    down = await site.until_state("down", "a")
    said = (await site.backends())["a"]["last_error"]
    after = [await chat(site.port, 2) for _ in range(20)]
    site.check_all(after, [old])
    site.check({reply.node for reply in after} == {"b"}, "a node without an address is given requests")
    site.check(down < DOWN + SLACK, f"without an address down after {down:.2f} s")
    print(f"  {len(new)} requests on the new one; without any, down after {down:.2f} s: {said}")


async def all_down(site):
    """Nobody is there for ten seconds, and sixty clients wait for it."""
    await site.serve("adaptive", port=NARROW)
    # One that must load the model first would rightly be spared: the other's line is sooner over.
    while len({reply.node for reply in await asyncio.gather(*(chat(site.port, 5) for _ in range(20)))}) < 2:
        pass
    site.net.pull("a", "b")
    await site.until_state("down", "a", "b")
    refused, chance, held = [], random.Random(SEED), {"a": 0, "b": 0}

    async def insist():
        await asyncio.sleep(2 * chance.random())
        while (reply := await chat(site.port, 5)).status == 503:
            refused.append(reply)
            await asyncio.sleep(float(reply.headers["retry-after"]))
        return reply

    clients = [asyncio.create_task(insist()) for _ in range(60)]
    await asyncio.sleep(10.0)
    site.net.plug("a", "b")
    back = time.monotonic()
    until = back + 10.0
    while time.monotonic() < until:
        for name, backend in (await site.backends()).items():
            held[name] = max(held[name], backend["in_flight"])
        if any(held.values()):
            until = min(until, time.monotonic() + 1.0)
        await asyncio.sleep(0.01)
    replies = await asyncio.gather(*clients)
    site.check_all(replies, [replies[0].meaning()])
    ended = sorted(reply.ended - back for reply in replies)
    lines = [json.loads(line) for line in site.log().splitlines() if '"refused"' in line]
    took = sorted(line["total_ms"] for line in lines)
    most, slow = took[len(took) * 99 // 100], max(reply.took for reply in refused) * 1000
    site.check(len(refused) > 200, f"only {len(refused)} refusals")
    site.check(most < REFUSED, f"one of a hundred refusals took {most:.1f} ms")
    site.check(ended[0] < 6.0, f"the first success came {ended[0]:.2f} s after the return")
    site.check(all(0 < number <= HERD for number in held.values()), f"they had {held} at a time")
    print(f"all down: {len(refused)} refusals, 99 % in {most:.1f} ms, all in {took[-1]:.1f}, clients saw {slow:.1f}")
    print(f"  answers {ended[0]:.2f} to {ended[-1]:.2f} s after the return, then {held} at a time at most")


async def flapping(site):
    """A cable is pulled and put back every two seconds."""
    await site.serve("least_connections")
    kinds = [lambda port: chat(port, 5), embed]
    known = [(await kind(site.port)).meaning() for kind in kinds]
    crowd = Crowd(site.port, kinds, 20)
    for _ in range(FLAPS):
        site.net.pull("a")
        await asyncio.sleep(2.0)
        site.net.plug("a")
        await asyncio.sleep(2.0)
    replies = await crowd.end()
    site.check_all(replies, known)
    lines = sum('"message":"backend is ' in line for line in site.log().splitlines())
    site.check(2 <= lines <= 2 * FLAPS, f"{lines} lines for {FLAPS} flaps")
    there = sum(reply.node == "a" for reply in replies)
    slow = max(reply.took for reply in replies)
    print(f"flapping: {len(replies)} requests right, {there} by the node that flaps, the slowest took {slow:.2f} s")
    print(f"  {lines} lines in the log for {FLAPS} flaps")


SCENARIOS = {it.__name__: it for it in [partition, black_hole, dead_address, bad_wire, moved_name, all_down, flapping]}


async def run(site, names):
    site.start_nodes()
    site.net.enter("lb")
    for site.scenario in names or SCENARIOS:
        await asyncio.wait_for(SCENARIOS[site.scenario](site), 60)
        left = await site.until(lambda backends: not any(it["in_flight"] for it in backends.values()))
        site.check(left < program.PATIENCE, "requests are not given back")
        site.check("panicked" not in site.log(), "panic")
        site.end()


def main(path, names):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    net = Net()
    with tempfile.TemporaryDirectory() as folder:
        site = Site(path, folder, net)
        try:
            try:
                net.build()
            except (OSError, subprocess.CalledProcessError) as error:
                reason = getattr(error, "stderr", None) or error
                print(f"note: no network namespaces here ({str(reason).strip()}); no network fails")
                return 0
            asyncio.run(run(site, names))
        finally:
            site.end()
            for child in site.children:
                child.kill()
                child.wait()
            net.remove()
    for fault in site.faults[:20]:
        print("FAULT", fault)
    print(f"{len(site.faults)} faults")
    return 1 if site.faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
