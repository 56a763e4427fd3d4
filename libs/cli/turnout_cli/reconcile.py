"""`turnout reconcile`: compares what a provider has with what arrived here; a scheduler runs it and heeds its exit status."""

from __future__ import annotations

from cyclopts import App

app = App(name="reconcile", help="Compare a provider's own view with ours, and mend the difference.")
