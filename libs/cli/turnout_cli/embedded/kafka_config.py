"""The configuration of a broker: one node by default, or one of a small cluster."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

_MIB = 1024 * 1024

# One node: nothing can be replicated. Sizes fit a laptop; topics.yaml sets its own per topic.
_FIXED: dict[str, str | int] = {
    "process.roles": "broker,controller",
    "node.id": 1,
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "offsets.topic.replication.factor": 1,
    "offsets.topic.num.partitions": 4,
    "transaction.state.log.replication.factor": 1,
    "transaction.state.log.min.isr": 1,
    "transaction.state.log.num.partitions": 4,
    "share.coordinator.state.topic.replication.factor": 1,
    "share.coordinator.state.topic.min.isr": 1,
    # After a kill the restarted broker waits this long for its own former session to end (default 9 s).
    "broker.session.timeout.ms": 4_000,
    "broker.heartbeat.interval.ms": 500,
    "group.initial.rebalance.delay.ms": 0,
    "auto.create.topics.enable": "false",
    "log.retention.bytes": 256 * _MIB,
    "log.segment.bytes": 64 * _MIB,
    "log.cleaner.dedupe.buffer.size": 32 * _MIB,
}

_LOG4J = """\
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{yyyy-MM-dd HH:mm:ss,SSS} %p %c{1}: %m%n
"""


def write_config(
    folder: Path,
    data: Path,
    *,
    port: int,
    controller_port: int,
    changes: Mapping[str, str | int] | None = None,
) -> tuple[Path, Path]:
    """Write server.properties and log4j2.properties into `folder`; returns both paths. `changes` win."""
    values = {
        **_FIXED,
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
        # Relative to the folder, where the broker runs: a comma would part it in two, and Java reads Latin-1 here.
        "log.dirs": data.relative_to(folder).as_posix(),
        **(changes or {}),
    }
    properties, logging = folder / "server.properties", folder / "log4j2.properties"
    properties.write_text("".join(f"{key}={value}\n" for key, value in values.items()))
    logging.write_text(_LOG4J)
    return properties, logging
