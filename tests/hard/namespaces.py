"""Network namespaces: one for the proxy and one for each node, plugged into a switch in one more.

Nothing in them reaches the world outside. They take root and iproute2.
"""

import asyncio
import contextlib
import ctypes
import fcntl
import os
import random
import shutil
import struct
import subprocess

HOSTS = {"lb": "10.77.0.1", "a": "10.77.0.2", "b": "10.77.0.3", "c": "10.77.0.4"}
NODES = ["a", "b", "c"]
SEED = 11
NOBODY = "02:00:00:00:00:99"  # a card that there is not
CLONE_NEWNET = 0x40000000
TUNSETIFF, FRAMES = 0x400454CA, 0x1002


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=10)


class Net:
    """The namespaces, and the switch."""

    def __init__(self):
        self.names = {host: f"llamero-{os.getpid()}-{host}" for host in [*HOSTS, "switch"]}
        self.own = f"/etc/netns/{self.names['lb']}"  # what the proxy sees in /etc instead of what is there

    def build(self):
        for name in self.names.values():
            ip("netns", "add", name)
        self.bridge("near")
        for host, address in HOSTS.items():
            end = ["type", "veth", "peer", "name", host, "netns", self.names["switch"]]
            ip("link", "add", "eth0", "netns", self.names[host], *end)
            self.port(host, "master", "near", "up")
            ip("-n", self.names[host], "address", "add", f"{address}/24", "dev", "eth0")
            for card in ["lo", "eth0"]:
                ip("-n", self.names[host], "link", "set", "dev", card, "up")
        os.makedirs(self.own)
        self.call("moving", ["a"])

    def remove(self):
        for name in self.names.values():
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                ip("netns", "delete", name)
        shutil.rmtree(self.own, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.rmdir("/etc/netns")  # unless somebody else's are there

    def within(self, host):
        """What a command that is to run there begins with."""
        return ["ip", "netns", "exec", self.names[host]]

    def enter(self, host):
        """From now on the sockets of this program are there."""
        with open(f"/run/netns/{self.names[host]}", encoding="utf-8") as file:
            if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "cannot enter a network namespace")

    def bridge(self, name):
        ip("-n", self.names["switch"], "link", "add", name, "type", "bridge")
        self.port(name, "up")

    def port(self, name, *settings):
        ip("-n", self.names["switch"], "link", "set", "dev", name, *settings)

    def pull(self, *hosts):
        """Pulls their cables."""
        for host in hosts:
            self.port(host, "down")

    def plug(self, *hosts):
        for host in hosts:
            self.port(host, "up")

    @contextlib.contextmanager
    def vanished(self, host):
        """What the proxy sends there reaches nobody, and nobody says so."""
        where = ["-n", self.names["lb"], "neigh"]
        ip(*where, "replace", HOSTS[host], "lladdr", NOBODY, "dev", "eth0", "nud", "permanent")
        try:
            yield
        finally:
            ip(*where, "del", HOSTS[host], "dev", "eth0")

    def call(self, name, hosts):
        """Writes the proxy's /etc/hosts, in place, for a new file would not be seen."""
        lines = ["127.0.0.1 localhost", *(f"{HOSTS[host]} {name}" for host in hosts)]
        with open(f"{self.own}/hosts", "a", encoding="utf-8") as file:
            file.truncate(0)
            file.write("\n".join(lines) + "\n")


class Wire:
    """Between the proxy and the nodes: a long way, on which some frames get lost or are overtaken.

    The kernel can do that itself where it has netem, which is seldom there.
    """

    DELAY, LOST, LATE = 0.025, 0.02, 0.05  # seconds each way, and shares of the frames

    def __init__(self, net):
        self.net, self.chance, self.carried, self.lost, self.ends = net, random.Random(SEED), 0, 0, []

    async def __aenter__(self):
        self.net.bridge("far")
        for name, bridge in [("end0", "near"), ("end1", "far")]:
            self.ends.append(os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK))
            fcntl.ioctl(self.ends[-1], TUNSETIFF, struct.pack("16sH22x", name.encode(), FRAMES))
            ip("link", "set", "dev", name, "netns", self.net.names["switch"])
            self.net.port(name, "master", bridge, "up")
        for host in NODES:
            self.net.port(host, "master", "far")
        for here, there in [self.ends, self.ends[::-1]]:
            asyncio.get_running_loop().add_reader(here, self.carry, here, there)
        return self

    def carry(self, here, there):
        frame = os.read(here, 65536)
        luck = self.chance.random()
        self.carried += 1
        self.lost += luck < self.LOST
        if luck >= self.LOST:
            delay = self.DELAY * (1.4 if luck < self.LOST + self.LATE else 1.0)
            asyncio.get_running_loop().call_later(delay, self.deliver, there, frame)

    def deliver(self, there, frame):
        if there in self.ends:
            os.write(there, frame)

    async def __aexit__(self, *_):
        for host in NODES:
            self.net.port(host, "master", "near")
        while self.ends:
            asyncio.get_running_loop().remove_reader(self.ends[-1])
            os.close(self.ends.pop())
