"""Every Prometheus metric of the system, in one place: name, kind, unit, meaning."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

#: Records read but not yet applied, by topic and partition.
CONSUMER_LAG = Gauge(
    "turnout_consumer_lag_records", "Records read but not yet applied", ["topic", "partition"]
)
#: Records that a consumer finished with, by what became of them.
RECORDS = Counter("turnout_records_total", "Records consumed, by outcome", ["topic", "outcome"])
#: Batches whose transaction failed for a while and was tried again.
BATCH_RETRIES = Counter(
    "turnout_batch_retries_total", "Batches tried again after a transient failure", ["topic"]
)
#: Duplicates that `applied` absorbed.
DUPLICATES = Counter("turnout_duplicate_records_total", "Records that had been applied before", ["topic"])
#: Records that went to dead_letters, by tenant.
DEAD_LETTERS = Counter("turnout_dead_letters_total", "Records dead-lettered", ["topic", "tenant_id"])
#: Records that the recovery check published again.
RECOVERED = Counter(
    "turnout_recovered_total", "Records published again because a reader never applied them", ["watch"]
)
#: Records that the recovery check found missing and that are still missing.
MISSING = Gauge("turnout_missing_records", "Records published but never applied", ["watch"])
#: Records that the relay published.
RELAYED = Counter("turnout_relayed_total", "Records published from the outbox", ["topic"])
#: Relay rounds that failed and were rolled back.
RELAY_FAILURES = Counter("turnout_relay_failures_total", "Relay rounds rolled back", ["relay"])
#: Age of the oldest row in the outbox.
OLDEST_UNPUBLISHED = Gauge("turnout_oldest_unpublished_seconds", "Age of the oldest outbox row", ["relay"])
#: Webhooks answered, by channel and status code.
WEBHOOKS = Counter("turnout_webhooks_total", "Webhooks answered", ["channel", "status"])
#: Webhooks that were not taken in, by what they failed at.
WEBHOOKS_REFUSED = Counter("turnout_webhooks_refused_total", "Webhooks not taken in", ["channel", "reason"])
#: Webhooks taken in without a valid signature, since STRICT_WEBHOOK_SIGNATURE is off.
WOULD_REFUSE = Counter("turnout_webhooks_would_refuse_total", "Webhooks taken in unverified", ["channel"])
#: Webhooks that were answered from the spool, and the bytes that wait there for Postgres.
SPOOLED = Counter("turnout_spooled_webhooks_total", "Webhooks spooled", ["channel"])
SPOOL_BYTES = Gauge("turnout_spool_bytes", "Bytes in the spool")
#: Connections that were closed at once because there were too many, in all or from their address.
CONNECTIONS_REFUSED = Counter("turnout_connections_refused_total", "Connections refused", ["reason"])
#: Items by their fate; the fates add up to what was received.
ITEMS = Counter("turnout_items_total", "Items received, by fate", ["channel", "fate"])
#: Items taken up for a commit. What it is ahead of turnout_items_total for longer than a moment has no fate: its
#: webhooks were answered 503 and come again.
ITEMS_RECEIVED = Counter("turnout_items_received_total", "Items taken up for a commit", ["channel"])
#: Channels that used to speak and do not, by the rule of view ingest.silent_channels.
CHANNELS_SILENT = Gauge(
    "turnout_channels_silent", "Channels that used to bring items and do not", ["channel"]
)
#: Rows per commit of the inbox writer.
COMMIT_ROWS = Histogram(
    "turnout_inbox_commit_rows", "Items per inbox commit", buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500)
)
#: Time from a webhook's acceptance to its effect in the KPIs.
FRESHNESS = Histogram(
    "turnout_freshness_seconds",
    "Time from acceptance or event to its KPI",
    buckets=(0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300),
)
#: What the last scheduled verification of the aggregates found; anything but 0 is a fault.
ROLLUP_DRIFT = Gauge(
    "turnout_rollup_drift", "Facts, cells and entities that the last run found wrong", ["granularity"]
)
#: Requests to providers, by what came of them.
SENDS = Counter("turnout_sends_total", "Requests to providers, by outcome", ["channel", "outcome"])
#: Time that providers take to answer.
SEND_SECONDS = Histogram(
    "turnout_send_seconds",
    "Time from a request to a provider to its answer",
    ["channel"],
    buckets=(0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
)
#: Versions of messages that were logged, by the state that they reached; `unknown` = the provider's answer was lost.
MESSAGES = Counter("turnout_messages_total", "Messages that reached a state", ["status"])
#: Time slots of a bot that were not used in time.
GRANTS_GIVEN_UP = Counter("turnout_grants_given_up_total", "Send slots that were missed", ["channel"])
#: Messages whose time has come and that wait.
DUE_MESSAGES = Gauge("turnout_due_messages", "Messages that are due and not sent yet")
