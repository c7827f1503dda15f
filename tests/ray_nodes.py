"""Several Ray nodes on one Linux machine, each in a network namespace of its own, joined by a bridge. Needs root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

HOST = "10.77.0"
PORT = 6379
BRIDGE = "ssmttm-br"


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


def possible() -> bool:
    """Whether this process may make network namespaces."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    made = run("ip", "netns", "add", "ssmttm-probe").returncode == 0
    run("ip", "netns", "del", "ssmttm-probe")
    return made


class Nodes:
    """Node 1 is the head. A node is a namespace `ssmttm-N` with the address 10.77.0.N on its `eth0`."""

    def __init__(self) -> None:
        self._started: dict[int, subprocess.Popen[bytes]] = {}
        # Ray's socket paths must stay under 108 bytes.
        self._folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
        self.environment = {
            **os.environ,
            "GLOO_SOCKET_IFNAME": "eth0",  # else workers of different nodes look for one another on 127.0.0.1
            "RAY_AUTH_MODE": "disabled",  # a network of this machine alone
            "RAY_TMPDIR": self._folder,
        }
        self.environment.pop("RAY_ADDRESS", None)
        run("ip", "link", "add", BRIDGE, "type", "bridge")
        run("ip", "link", "set", BRIDGE, "up")

    def start(self, number: int, cpus: int) -> None:
        space, link = f"ssmttm-{number}", f"ssmttm-v{number}"
        for words in (
            f"netns add {space}",
            f"link add {link} type veth peer name eth0 netns {space}",
            f"link set {link} master {BRIDGE} up",
            f"-n {space} addr add {HOST}.{number}/24 dev eth0",
            f"-n {space} link set eth0 up",
            f"-n {space} link set lo up",
        ):
            done = run("ip", *words.split())
            assert done.returncode == 0, done.stderr
        place = (
            ["--head", f"--port={PORT}", f"--temp-dir={self._folder}"] if number == 1 else [f"--address={self.address}"]
        )
        options = [f"--node-ip-address={HOST}.{number}", f"--num-cpus={cpus}", "--block", "--disable-usage-stats"]
        options.append("--object-store-memory=200000000")
        ray = str(Path(sys.executable).parent / "ray")
        self._started[number] = subprocess.Popen(
            [*self.inside(number), ray, "start", *place, *options],
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    @property
    def address(self) -> str:
        return f"{HOST}.1:{PORT}"

    @staticmethod
    def inside(number: int) -> list[str]:
        """What runs a command on a node."""
        return ["ip", "netns", "exec", f"ssmttm-{number}"]

    def processes(self, number: int) -> list[psutil.Process]:
        found = []
        for pid in run("ip", "netns", "pids", f"ssmttm-{number}").stdout.split():
            try:
                found.append(psutil.Process(int(pid)))
            except psutil.NoSuchProcess:
                continue
        return found

    def running(self, number: int, name: str) -> bool:
        """Whether a process of the node has this in its command line."""
        for process in self.processes(number):
            try:
                if name in " ".join(process.cmdline()):
                    return True
            except psutil.Error:
                continue
        return False

    def wait(self, count: int) -> None:
        """Until so many nodes are alive."""
        script = "import ray; ray.init(address='auto', log_to_driver=False); "
        script += "print(sum(n['Alive'] for n in ray.nodes()))"
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            words = [*self.inside(1), sys.executable, "-c", script]
            environment = {**self.environment, "RAY_ADDRESS": self.address}
            done = subprocess.run(words, capture_output=True, text=True, timeout=120, env=environment, check=False)
            if done.stdout.strip().endswith(str(count)):
                return
            time.sleep(1)
        raise AssertionError(f"{count} nodes did not come up: {done.stdout} {done.stderr[-2000:]}")

    def kill(self, number: int) -> None:
        """Every process of a node at once, as when a machine is taken away."""
        for process in self.processes(number):
            process.kill()
        self._started.pop(number).wait(timeout=60)

    def close(self) -> None:
        for number in list(self._started):
            self.kill(number)
        for number in range(1, 5):
            run("ip", "netns", "del", f"ssmttm-{number}")
        run("ip", "link", "del", BRIDGE)
        shutil.rmtree(self._folder, ignore_errors=True)
