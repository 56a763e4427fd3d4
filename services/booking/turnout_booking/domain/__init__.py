"""What booking decides, without a database or a clock: the items of a chain, their fold, intents, reminders."""
