"""Webhooks as the providers send them: pure builders of bodies, and a client that signs and posts them.

Used by smoke, demo, bench and the tests. Times, ids and randomness are passed in.
"""

from turnout_cli.webhooks.post import Answer, PostFailed, Webhook, WebhookClient, signed_body, signed_headers

__all__ = ["Answer", "PostFailed", "Webhook", "WebhookClient", "signed_body", "signed_headers"]
