"""The mock providers' settings."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class MockProvidersSettings(BaseSettings):
    """Where to listen, and whose tokens to know."""

    model_config = SettingsConfigDict(env_prefix="TURNOUT_", extra="ignore", frozen=True)

    http_host: str = Field("127.0.0.1", description="Address to listen on.")
    http_port: int = Field(8605, ge=0, le=65535, description="Port to listen on.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Least level that is logged."
    )
    log_format: Literal["json", "console"] = Field(
        "json", description="`console` is for people, `json` for machines."
    )
    mock_tokens: str = Field(
        "", description="The bot tokens that exist, comma-separated; empty: every well-formed one does."
    )

    @property
    def known_tokens(self) -> frozenset[str] | None:
        """The tokens that exist; None = every well-formed one."""
        tokens = frozenset(token.strip() for token in self.mock_tokens.split(",") if token.strip())
        return tokens or None
