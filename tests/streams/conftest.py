import pytest
from servers import nats_server, redis_server


@pytest.fixture
def redis(tmp_path):
    """A Redis of our own."""
    pytest.importorskip("redis", reason="reading from Redis needs redis")
    server = redis_server(tmp_path)
    yield server
    server.kill()


@pytest.fixture
def nats(tmp_path):
    """A NATS with JetStream of our own."""
    pytest.importorskip("nats", reason="reading from NATS needs nats-py")
    server = nats_server(tmp_path)
    yield server
    server.kill()
