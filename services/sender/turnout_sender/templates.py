"""The texts that clients get, in Russian and English, with the appointment's local day and time. Pure."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

from turnout_common.events import MessageTemplate

FALLBACK = "en"
_TEXTS = {
    ("en", MessageTemplate.CONFIRMATION): "Your appointment is booked: {when}. See you then!",
    ("en", MessageTemplate.REMINDER_24H): "A reminder of your appointment: {when}.",
    ("ru", MessageTemplate.CONFIRMATION): "Вы записаны: {when}. Ждём вас!",
    ("ru", MessageTemplate.REMINDER_24H): "Напоминаем о вашей записи: {when}.",
}
LOCALES = frozenset(locale for locale, _ in _TEXTS)
_DAYS = {
    "en": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "ru": ("понедельник", "вторник", "среда", "четверг", "пятница", "суббота", "воскресенье"),
}
_MONTHS = {
    "en": (
        "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
        "December",
    ),
    "ru": (
        "января", "февраля", "марта", "апреля", "мая", "июня", "июля", "августа", "сентября", "октября", "ноября",
        "декабря",
    ),
}  # fmt: skip


def choose_locale(*wanted: str | None) -> str:
    """The first of `wanted` that there are texts in: `ru-RU` and `ru_RU` are `ru`."""
    for locale in wanted:
        language = (locale or "").replace("_", "-").split("-")[0].lower()
        if language in LOCALES:
            return language
    return FALLBACK


def local_time(locale: str, at: datetime, zone: ZoneInfo) -> str:
    """`Friday, 27 November, 10:00`: the salon's wall clock at that moment, whatever its offset is on that day."""
    local = at.astimezone(zone)
    day, month = _DAYS[locale][local.weekday()], _MONTHS[locale][local.month - 1]
    return f"{day}, {local.day} {month}, {local:%H:%M}"


def render(template: str, locale: str, start_at: datetime, zone: ZoneInfo) -> str:
    """The text. Raises KeyError for a template or locale that there is none of, a fault of ours."""
    return _TEXTS[locale, MessageTemplate(template)].format(when=local_time(locale, start_at, zone))
