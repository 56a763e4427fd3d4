"""`python -m turnout_common.healthcheck [/ready]`: a container's health check, without a curl in the image.

Standard library only and little of it: an engine runs it every few seconds beside each service.
"""

from __future__ import annotations

import http.client
import os
import sys

TIMEOUT_SECONDS = 4


def check(port: int, path: str) -> int:
    """0 when this machine's service answers `path` with 200, else 1; says on stderr what it answered."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read(500).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        body, status = repr(error), 0
    else:
        status = answer.status
    finally:
        connection.close()
    if status == 200:
        return 0
    sys.stderr.write(f"{path}: {status} {body}\n")
    return 1


if __name__ == "__main__":
    sys.exit(check(int(os.environ.get("TURNOUT_HTTP_PORT", "8600")), (sys.argv[1:] or ["/health"])[0]))
