"""The mocked providers: one file each, named in `all_providers`."""

from turnout_mock_providers.providers.calcom import Calcom
from turnout_mock_providers.providers.max import Max
from turnout_mock_providers.providers.provider import Backstage, Provider
from turnout_mock_providers.providers.telegram import Telegram


def all_providers(backstage: Backstage) -> tuple[Provider, ...]:
    """Every provider that is mocked."""
    return (Telegram(backstage), Max(backstage), Calcom(backstage))
