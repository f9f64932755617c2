"""Catalogue of neuronx-cc errors."""

from __future__ import annotations

from g4c.errors import Entry

CATALOGUE: dict[str, Entry] = {}
