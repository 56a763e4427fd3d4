# Short names for what one types often. `just` alone lists them; `just ci` is what CI runs.

set positional-arguments

[private]
default:
    @just --list --unsorted

# start Postgres, Kafka and all services, without Docker
[group('run')]
up *arguments:
    ./turnout up "$@"

# stop what `up` started
[group('run')]
down:
    ./turnout down

# send a booking's life through the running system and check each step
[group('run')]
smoke *arguments:
    ./turnout smoke "$@"

# the same system in containers
[group('run')]
compose-up:
    ./turnout secrets
    docker compose up --build --detach --wait

# stop the containers; their data stays
[group('run')]
compose-down:
    docker compose down

# all tests, or what the arguments say (pytest's)
[group('check')]
test *arguments:
    ./turnout test "$@"

# unit and contract tests: seconds, no server
[group('check')]
test-fast *arguments:
    ./turnout test --fast "$@"

# style, format, import rules
[group('check')]
lint:
    uv run --frozen ruff check
    uv run --frozen ruff format --check
    uv run --frozen lint-imports

# mypy, strict
[group('check')]
types:
    uv run --frozen mypy

# write the format that `lint` checks
[group('check')]
fmt:
    uv run --frozen ruff check --fix
    uv run --frozen ruff format

# generated contracts are fresh, every example parses
[group('check')]
contracts:
    ./turnout contracts check

# run the hooks of .pre-commit-config.yaml on all files
[group('check')]
hooks:
    uv run --frozen prek run --all-files

# what CI runs, in one pass: as root on a clean checkout
[group('check')]
ci:
    CI=true bash .ci/run

# a night: all tests on embedded servers, in containers and on given servers; the faults twenty times; the fuzzers
[group('check')]
nightly:
    #!/usr/bin/env bash
    set -euo pipefail
    TURNOUT_TEST_BACKEND=embedded ./turnout test
    TURNOUT_TEST_BACKEND=testcontainers ./turnout test
    ./turnout secrets
    docker compose up --detach --wait postgres kafka
    source .env
    TURNOUT_TEST_POSTGRES=postgresql://postgres:$TURNOUT_ADMIN_PASSWORD@127.0.0.1:${TURNOUT_COMPOSE_POSTGRES_PORT:-8610}/postgres \
    TURNOUT_TEST_KAFKA=127.0.0.1:${TURNOUT_COMPOSE_KAFKA_PORT:-8611} ./turnout test
    docker compose down
    just faults 20
    just fuzz

# every fault test so many times in a row, a summary at the end
[group('check')]
faults rounds='1':
    #!/usr/bin/env bash
    set -uo pipefail
    logs=$(mktemp -d) failed=0 summary=()
    for round in $(seq {{ rounds }}); do
        begin=$SECONDS
        # `-m ""`: those for the night too
        TURNOUT_TEST_BACKEND=embedded ./turnout test tests/resilience -m "" --durations=0 --durations-min=1 | tee "$logs/$round"
        status=${PIPESTATUS[0]}
        ((status == 0)) || failed=$((failed + 1))
        summary+=("round $round: status $status, $((SECONDS - begin)) s: $(tail -n 1 "$logs/$round")")
    done
    printf '%s\n' "" "${summary[@]}" "$failed of {{ rounds }} rounds failed; logs in $logs"
    grep -h '^FAILED' "$logs"/* | sort | uniq -c
    exit $((failed > 0))

# each provider's parser and verifier under a fuzzer for so many seconds (two runs a channel), and ingest's contract under schemathesis
[group('check')]
fuzz seconds='600' examples='400':
    #!/usr/bin/env bash
    set -uo pipefail
    work=${TURNOUT_FUZZ_CORPUS:-$HOME/.cache/turnout-fuzz} failed=()
    mkdir -p "$work"
    channels=$(uv run --frozen python -c 'from turnout_ingest.providers import PROVIDERS; print(*PROVIDERS)') || exit
    for target in parse verify; do
        for channel in $channels; do
            echo "--- $target $channel"
            uv run --frozen python -m tests.fuzz.run $target $channel "$work/$target-$channel" {{ seconds }} 2>&1 \
                | tail -n 25 || failed+=("$target $channel")
        done
    done
    TURNOUT_ABUSE_EXAMPLES={{ examples }} ./turnout test tests/integration/test_ingest_abuse.py --timeout 3600 || failed+=("contract")
    printf '%s\n' "${failed[@]/#/✗ }"
    echo "found inputs: $work; keep them by: uv run python -m tests.fuzz.corpus TARGET CHANNEL $work/TARGET-CHANNEL"
    ((${#failed[@]} == 0))

# a figure of docs/PERFORMANCE.md: `just bench pipeline`
[group('check')]
bench *arguments:
    ./turnout bench "$@"

# install the git hooks
[group('develop')]
hooks-install:
    uv run --frozen prek install

# bring the environment to the lock
[group('develop')]
sync:
    uv sync --frozen
