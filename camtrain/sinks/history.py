"""Where the history of a run was before `camtrain.records`: scripts and notebooks import it from here."""

from camtrain.records import History, read_history

__all__ = ["History", "read_history"]
