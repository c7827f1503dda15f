"""Registries: what a configuration names, by name. Nothing else decides by a name."""

from __future__ import annotations

import difflib
from typing import TypeVar

from ssmttm.errors import UserError

Entry = TypeVar("Entry")


class Registry(dict[str, Entry]):
    """Entries by name. `key` is the configuration key that names one, for messages; more entries may be added by
    anyone who imports it, before a configuration asks for them."""

    def __init__(self, key: str, entries: dict[str, Entry]):
        super().__init__(entries)
        self.key = key

    def find(self, name: str) -> Entry:
        """The entry of a name.

        Raises:
            UserError: if there is none, naming the nearest and all that there are.
        """
        if name in self:
            return self[name]
        nearest = difflib.get_close_matches(name, self, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"there are {', '.join(sorted(self))}"
        raise UserError(f"{self.key}={name} is unknown; {hint}")
