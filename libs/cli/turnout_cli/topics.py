"""Creates the topics of contracts/topics.yaml. Nothing else in the system creates one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import TopicAlreadyExistsError, for_code

from turnout_common.topics import load_topics


async def create_topics(
    bootstrap: str, prefix: str = "", replication: int = 1, partitions: int | None = None
) -> list[str]:
    """Creates what is missing and gives its names. Raises aiokafka's errors, with the topic's name, for all else."""
    # With three replicas a write must reach two, so that losing one broker loses nothing (design §1).
    durable = {"min.insync.replicas": "2"} if replication >= 3 else {}
    async with _admin(bootstrap) as admin:
        existing = set(await admin.list_topics())
        wanted = [
            NewTopic(
                prefix + spec.name,
                partitions or spec.partitions,
                replication,
                topic_configs=spec.config | durable,
            )
            for spec in load_topics().values()
            if prefix + spec.name not in existing
        ]
        if not wanted:
            return []
        answer = await admin.create_topics(wanted, timeout_ms=20_000)
        for topic, code, *message in answer.topic_errors:  # type: ignore[attr-defined]
            error = for_code(code)
            if code and error is not TopicAlreadyExistsError:
                raise error(f"topic {topic}: {' '.join(str(part) for part in message if part)}")
        return [topic.name for topic in wanted]


async def missing_topics(bootstrap: str, prefix: str = "") -> list[str]:
    """The names of the topics that the broker lacks."""
    async with _admin(bootstrap) as admin:
        existing = set(await admin.list_topics())
        return [prefix + name for name in load_topics() if prefix + name not in existing]


@asynccontextmanager
async def _admin(bootstrap: str) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap.split(","), client_id="turnout-topics")
    try:
        await admin.start()
        yield admin
    finally:
        await admin.close()
