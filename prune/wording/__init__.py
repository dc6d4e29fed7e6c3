"""What the tool says to people: messages as values, and the sentences and numbers of each language."""

from prune.wording.message import Message, Words, message
from prune.wording.text import Text

__all__ = ["Message", "Text", "Words", "message"]
