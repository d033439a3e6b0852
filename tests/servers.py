"""Real servers for tests, each on a free port and with a folder of its own: they are killed, and started anew."""

import os
import shutil
import socket
import subprocess
import time

import pytest


class Server:
    """A program that listens on a port, and keeps its data in a folder."""

    def __init__(self, program, *options, folder):
        self.path = shutil.which(program, path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")
        if self.path is None:
            pytest.skip(f"{program} is not installed; .ci/servers installs it")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder, self.options, self.process = folder, options, None
        self.start()

    def start(self):
        given = [str(each).format(port=self.port, folder=self.folder) for each in self.options]
        self.process = subprocess.Popen([self.path, *given], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                assert time.monotonic() < until
                assert self.process.poll() is None, f"{self.path} ended with {self.process.returncode}"
                time.sleep(0.01)
            else:
                return

    def kill(self):
        """As kill -9."""
        self.process.kill()
        self.process.wait()


def redis_server(folder):
    return Server(
        *("redis-server", "--bind", "127.0.0.1", "--port", "{port}", "--dir", "{folder}", "--save", ""),
        *("--appendonly", "yes", "--appendfsync", "always"),
        folder=folder,
    )


def nats_server(folder):
    return Server("nats-server", "-a", "127.0.0.1", "-p", "{port}", "-js", "-sd", "{folder}", folder=folder)
