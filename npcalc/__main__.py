"""``python -m npcalc``."""

from .cli import app

app()
