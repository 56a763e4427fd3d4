"""`turnout reconcile`: compares what a provider has with what arrived here; a scheduler runs it and heeds its exit status."""

from __future__ import annotations

from cyclopts import App

app = App(name="reconcile", help="Compare a provider's own view with ours, and mend the difference.")
app.command(
    "turnout_cli.reconcile_max:reconcile_max", name="max", help="Is each bot still subscribed at MAX?"
)
app.command(
    "turnout_cli.reconcile_calcom:reconcile_calcom",
    name="calcom",
    help="Which bookings has Cal.com that no webhook told?",
)
