"""Who may come in: keys, their roles, and the file that holds them."""

from ndserve.access.keys import Key, KeyFile, Role, new_key

__all__ = ["Key", "KeyFile", "Role", "new_key"]
