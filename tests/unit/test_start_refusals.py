"""In production no service starts on a weak setting: it says so in a line each, before it opens anything."""

from __future__ import annotations

import base64
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from time import monotonic
from urllib.request import urlopen

import pytest

from turnout_cli.embedded.process import free_port
from turnout_cli.services import SERVICES, Service

OURS = [service for service in SERVICES if service.role is not None]
WITH_MASTER_KEY = [service for service in OURS if service.name in ("ingest", "sender")]
STRONG = os.urandom(16).hex()
GOOD_KEY = base64.b64encode(os.urandom(32)).decode()
each = pytest.mark.parametrize("service", OURS, ids=lambda service: service.name)
each_with_master_key = pytest.mark.parametrize("service", WITH_MASTER_KEY, ids=lambda service: service.name)


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """Stands where Postgres and Kafka should, and hears whether somebody knocks."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def start(
    service: Service, server: socket.socket, password: str = STRONG, **variables: str
) -> subprocess.Popen[str]:
    port = server.getsockname()[1]
    environment = {
        "PATH": os.environ["PATH"],
        "TURNOUT_POSTGRES_DSN": f"postgresql://{service.role}:{password}@127.0.0.1:{port}/none",
        "TURNOUT_KAFKA_BOOTSTRAP": f"127.0.0.1:{port}",
        "TURNOUT_HTTP_PORT": "0",
        "TURNOUT_MASTER_KEY": GOOD_KEY,
    }
    return subprocess.Popen(
        [sys.executable, "-m", service.module],
        env=environment | variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def refused(service: Service, server: socket.socket, password: str = STRONG, **variables: str) -> list[str]:
    """What a service says that does not start, line by line."""
    with start(service, server, password, **variables) as process:
        try:
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    server.setblocking(False)
    with pytest.raises(BlockingIOError):
        server.accept()
    assert (process.returncode, out) == (2, "")
    return err.splitlines()


@each
def test_production_refuses_a_weak_password_of_the_database_before_it_connects(
    service: Service, server: socket.socket
) -> None:
    (line,) = refused(service, server, "hunter-two")

    assert line.startswith(f"{service.name} does not start: TURNOUT_POSTGRES_DSN: a password of fewer than")
    assert "hunter-two" not in line


@each
def test_each_fault_of_a_start_has_a_line_of_its_own(service: Service, server: socket.socket) -> None:
    lines = refused(service, server, TURNOUT_LOG_LEVEL="LOUD", TURNOUT_STOP_SECONDS="soon")

    assert [line.split(": ")[:2] for line in lines] == [
        [f"{service.name} does not start", f"TURNOUT_{name}"] for name in ("LOG_LEVEL", "STOP_SECONDS")
    ]


@each_with_master_key
def test_production_refuses_a_guessable_master_key_before_it_connects(
    service: Service, server: socket.socket
) -> None:
    key = base64.b64encode(b"ab" * 16).decode()
    password, master_key = refused(service, server, service.role or "", TURNOUT_MASTER_KEY=key)

    assert password == f"{service.name} does not start: TURNOUT_POSTGRES_DSN: a default password is refused in production"  # fmt: skip
    assert master_key.startswith(
        f"{service.name} does not start: TURNOUT_MASTER_KEY: a default or guessable key"
    )
    assert key not in master_key


@each
@pytest.mark.parametrize(
    ("password", "variables"),
    [(STRONG, {}), ("hunter-two", {"TURNOUT_ENV": "development"})],
    ids=["strong", "development"],
)
def test_service_that_may_start_goes_on_to_its_servers(
    service: Service, server: socket.socket, password: str, variables: dict[str, str]
) -> None:
    port = free_port()
    deadline = monotonic() + 60
    with start(service, server, password, TURNOUT_HTTP_PORT=str(port), **variables) as process:
        try:
            while not select.select([server], [], [], 0.2)[0]:
                assert process.poll() is None and monotonic() < deadline
                with suppress(OSError):  # kpi-api connects when it is asked
                    urlopen(f"http://127.0.0.1:{port}/ready", timeout=0.2).close()
        finally:
            process.kill()
            process.communicate(timeout=60)
