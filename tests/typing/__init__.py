"""Programs that are type-checked and never run: what a user's type checker makes of the API."""
