# One image for everything: the five services, the mock providers and the `turnout` command.
#   docker run IMAGE python -m turnout_ingest.main
# No BuildKit-only instruction, so that any builder can build it; `--network host` where the build needs a proxy or CA.

FROM python:3.13-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    UV_PYTHON=/usr/local/bin/python3.13 \
    UV_PYTHON_DOWNLOADS=never \
    UV_PROJECT_ENVIRONMENT=/app/.venv \
    UV_LINK_MODE=copy \
    UV_COMPILE_BYTECODE=1 \
    UV_NO_CACHE=1
RUN pip install --quiet --no-cache-dir --root-user-action=ignore 'uv>=0.9,<1'
WORKDIR /src

# Third-party packages change with the lock only, so they are a layer of their own.
COPY pyproject.toml uv.lock ./
COPY libs/common/pyproject.toml libs/common/
COPY libs/cli/pyproject.toml libs/cli/
COPY services/ingest/pyproject.toml services/ingest/
COPY services/booking/pyproject.toml services/booking/
COPY services/sender/pyproject.toml services/sender/
COPY services/rollup/pyproject.toml services/rollup/
COPY services/kpi-api/pyproject.toml services/kpi-api/
COPY deploy/mock-providers/pyproject.toml deploy/mock-providers/
# The members by name, not the workspace: its root asks for the CLI's `embedded` extra (a JRE and a Postgres).
ENV MEMBERS="--package turnout-cli --package turnout-ingest --package turnout-booking --package turnout-sender \
 --package turnout-rollup --package turnout-kpi-api --package turnout-mock-providers"
RUN uv sync --quiet --frozen --no-dev --no-editable --no-install-workspace $MEMBERS

COPY libs libs
COPY services services
COPY deploy/mock-providers deploy/mock-providers
COPY contracts contracts
RUN uv sync --quiet --frozen --no-dev --no-editable $MEMBERS \
 && cp -r contracts /app/.venv/lib/python3.13/site-packages/turnout_common/contracts \
 && /app/.venv/bin/python -c "from turnout_common.topics import load_topics; assert load_topics()"

FROM python:3.13-slim
ENV PATH=/app/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    TURNOUT_HTTP_HOST=0.0.0.0 \
    TURNOUT_HTTP_PORT=8600 \
    TURNOUT_LOG_FORMAT=json
COPY --from=build /app/.venv /app/.venv
WORKDIR /app
# A number, so that Kubernetes' runAsNonRoot can see that it is not root; it owns nothing in the image.
USER 10001:10001
EXPOSE 8600
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
  CMD ["python", "-m", "turnout_common.healthcheck"]
CMD ["turnout", "--help"]
