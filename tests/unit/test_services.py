"""Each service gets its own role, its own port and no more."""

from __future__ import annotations

import socket
from pathlib import Path

from turnout_cli.services import SERVICES, Addresses, choose_ports, moved_ports, process_spec, services
from turnout_cli.state import Home, new_passwords


def addresses(*, demo: bool = True) -> Addresses:
    ports = {"postgres": 1, "kafka": 2} | {each.name: each.port for each in services(demo=demo)}
    return Addresses(1, "127.0.0.1:2", new_passwords({}), ports, Path("/keys/master.key"))


def test_the_ports_of_the_last_run_are_kept() -> None:
    first = choose_ports({}, demo=True)

    assert choose_ports(first, demo=True) == first
    assert len(set(first.values())) == len(SERVICES) + 2


def test_a_port_that_another_program_took_is_replaced() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]

        assert choose_ports({"ingest": taken}, demo=True)["ingest"] != taken


def test_a_service_that_is_not_where_one_looks_for_it_is_told() -> None:
    assert moved_ports({}, {"ingest": 40001, "booking": 8601, "kafka": 40002}) == [
        "port 8600 is taken by another program: ingest has 40001, and keeps it"
    ]
    assert moved_ports({"ingest": 40001, "kafka": 1}, {"ingest": 40001, "kafka": 1}) == []


def test_servers_keep_their_port_even_when_it_is_taken() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]

        assert choose_ports({"kafka": taken}, demo=True)["kafka"] == taken


def test_every_service_connects_as_its_own_role(tmp_path: Path) -> None:
    system = addresses()
    for service in SERVICES:
        env = process_spec(service, system, Home(tmp_path)).env
        others = [system.passwords[each.role] for each in SERVICES if each.role and each.role != service.role]

        assert (service.role is None) == ("TURNOUT_POSTGRES_DSN" not in env)
        assert not any(password in value for password in others for value in env.values())


def test_only_who_seals_or_opens_gets_the_master_key(tmp_path: Path) -> None:
    system = addresses()
    given = {
        service.name
        for service in SERVICES
        if "TURNOUT_MASTER_KEY_FILE" in process_spec(service, system, Home(tmp_path)).env
    }

    assert given == {"ingest", "sender"}


def test_the_sender_talks_to_the_mock_providers_in_the_demo_only(tmp_path: Path) -> None:
    sender = next(service for service in SERVICES if service.name == "sender")
    with_demo = process_spec(sender, addresses(demo=True), Home(tmp_path)).env
    without = process_spec(sender, addresses(demo=False), Home(tmp_path)).env

    assert with_demo["TURNOUT_PROVIDER_BASE_URL"] == "http://127.0.0.1:8605"
    assert "TURNOUT_PROVIDER_BASE_URL" not in without
