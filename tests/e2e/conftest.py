"""What of the end-to-end tests can run here."""

from __future__ import annotations

from tests.e2e.stack import ROOT

PAYLOADS = ROOT.parent / "shared" / "payloads"
# The providers' own bodies lie beside the repository, since their licences are mixed. Where they are not, the fixtures
# that were written anew stand in for them (tests/fixtures).
collect_ignore = [] if PAYLOADS.is_dir() else ["test_shared_payloads.py"]
