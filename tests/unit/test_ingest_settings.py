"""In production ingest refuses to start with a strict mode off or a weak key, one line a fault."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

import turnout_common
from turnout_common.settings import LONGEST_TRANSACTION
from turnout_ingest.settings import IngestSettings

GOOD_KEY = base64.b64encode(os.urandom(32)).decode()
STRICT_MODES = ["strict_webhook_signature", "strict_tenant_config", "strict_inbound_schema"]


def off(*modes: str) -> dict[str, Any]:
    return dict.fromkeys(modes, False)


def faults(
    env: str = "production",
    key: str | None = GOOD_KEY,
    dsn: str = "postgresql://nobody@127.0.0.1:1/none",
    **changes: Any,
) -> list[str]:
    return IngestSettings(
        env=env,  # type: ignore[arg-type]
        postgres_dsn=SecretStr(dsn),
        master_key=SecretStr(key) if key is not None else None,
        **changes,
    ).start_faults()


def test_strict_modes_are_on_by_default_and_production_starts() -> None:
    settings = IngestSettings(postgres_dsn=SecretStr("postgresql://x"))

    assert settings.production
    assert all(getattr(settings, mode) for mode in STRICT_MODES)
    assert faults() == []


@pytest.mark.parametrize("mode", STRICT_MODES)
def test_production_refuses_a_strict_mode_that_is_off(mode: str) -> None:
    (fault,) = faults(**off(mode))

    assert fault.startswith(f"TURNOUT_{mode.upper()}=false is refused")
    assert "\n" not in fault


def test_each_fault_has_a_line_of_its_own() -> None:
    assert len(faults(key=None, **off(*STRICT_MODES))) == 4


@pytest.mark.parametrize("mode", STRICT_MODES)
def test_development_may_turn_a_strict_mode_off(mode: str) -> None:
    assert faults("development", **off(mode)) == []


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (None, "no master key"),
        ("", "0 bytes"),
        ("c2hvcnQ=", "5 bytes"),
        ("changeme", "6 bytes"),
        ("not base64!", "not base64"),
        (base64.b64encode(bytes(32)).decode(), "default or guessable"),
        (base64.b64encode(b"a" * 32).decode(), "default or guessable"),
        (base64.b64encode(bytes(range(32))).decode(), "default or guessable"),
    ],
)
def test_production_refuses_a_missing_short_or_default_master_key(key: str | None, words: str) -> None:
    (fault,) = faults(key=key)

    assert fault.startswith("TURNOUT_MASTER_KEY: ")
    assert words in fault


@pytest.mark.parametrize(
    "password", ["postgres", "turnout_ingest", "Password", "short", "changemechangeme", "p%40ss"]
)
def test_production_refuses_a_default_or_short_password_of_the_database(password: str) -> None:
    dsn = f"postgresql://turnout_ingest:{password}@127.0.0.1:1/none"
    (fault,) = faults(dsn=dsn)

    assert fault.startswith("TURNOUT_POSTGRES_DSN: ") and "refused in production" in fault
    assert password not in fault.removeprefix("TURNOUT_POSTGRES_DSN: a default password")
    assert faults("development", dsn=dsn) == []


def test_password_in_a_parameter_of_the_dsn_is_judged_too() -> None:
    (fault,) = faults(dsn="postgresql://127.0.0.1:1/none?user=turnout_ingest&password=short")

    assert fault.startswith("TURNOUT_POSTGRES_DSN: a password of fewer than")


@pytest.mark.parametrize("env", ["production", "development"])
@pytest.mark.parametrize("sign", ["[", "\N{DOUBLE QUESTION MARK}", "/", "?", "#"])
def test_dsn_that_is_no_url_is_told_without_it(sign: str, env: str) -> None:
    """Behind the sign the driver would look for a host or a parameter, and name it when it finds none."""
    (fault,) = faults(env, dsn=f"postgresql://turnout_ingest:longenoughpa{sign}ss@127.0.0.1:1/none")

    assert "percent-encoded" in fault and f"pa{sign}" not in fault and "ss@" not in fault


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://h1:5432,h2:5433/turnout?target_session_attrs=any",
        "postgresql://turnout_ingest:long%40enough%2Fpassword@h:1/none?sslmode=verify-full&application_name=a@b",
        "postgresql:///turnout?host=/run/postgresql",
    ],
)
def test_dsn_that_the_driver_understands_is_taken(dsn: str) -> None:
    assert faults(dsn=dsn) == []


@pytest.mark.parametrize("password", ["", ":" + os.urandom(16).hex()])
def test_production_takes_a_random_password_and_a_dsn_without_one(password: str) -> None:
    assert faults(dsn=f"postgresql://turnout_ingest{password}@127.0.0.1:1/none") == []


@pytest.mark.parametrize("seconds", [4, 30])
def test_production_refuses_a_recovery_that_passes_over_a_slow_transaction(seconds: float) -> None:
    (fault,) = faults(recovery_age_seconds=seconds)

    assert fault.startswith("TURNOUT_RECOVERY_AGE_SECONDS: more than 30 is needed")
    assert faults("development", recovery_age_seconds=seconds) == []
    assert faults(recovery_age_seconds=30.1) == []


def test_queue_in_whose_parts_the_largest_body_would_never_be_stored_is_refused() -> None:
    with pytest.raises(ValueError, match="inbox_queue_items"):
        IngestSettings(postgres_dsn=SecretStr("x"), inbox_queue_items=19)


def test_longest_transaction_is_what_the_roles_are_given() -> None:
    roles = (Path(turnout_common.__file__).parent / "migrations" / "roles.sql").read_text()

    assert f"transaction_timeout = %L', role_name, '{LONGEST_TRANSACTION}s'" in roles


def test_proxies_that_are_no_addresses_are_refused() -> None:
    with pytest.raises(ValueError, match="nonsense"):
        IngestSettings(postgres_dsn=SecretStr("x"), trusted_proxies="10.0.0.0/8, nonsense")


def test_key_file_that_is_not_there(tmp_path: Path) -> None:
    (fault,) = faults(key=None, master_key_file=tmp_path / "none")

    assert "none" in fault


def run(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "turnout_ingest.main"],
        env={"PATH": os.environ["PATH"]} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_process_says_why_and_exits_2_without_showing_a_secret() -> None:
    done = run(
        TURNOUT_POSTGRES_DSN="postgresql://u:hidden-word@127.0.0.1:1/none",
        TURNOUT_MASTER_KEY="c2hvcnQ=",
        TURNOUT_STRICT_TENANT_CONFIG="false",
    )

    assert done.returncode == 2
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["ingest does not start"] * 3
    assert "hidden-word" not in done.stderr and "c2hvcnQ" not in done.stderr


def test_process_without_a_setting_names_it() -> None:
    done = run()

    assert done.returncode == 2
    assert done.stderr.startswith("ingest does not start: TURNOUT_POSTGRES_DSN")
