"""A chat template is a program of the checkpoint: it is tried out under limits before it is rendered here.

The sandbox of transformers keeps a template from reaching Python, not from looping or filling memory. Assumption: a
template that renders a short conversation within the limits also renders the longer ones of a data set.
"""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Any

from prune.errors import PruneError

SECONDS = 5
EXTRA_BYTES = 1 << 30
CONVERSATION = [
    {"role": "user", "content": "What is 2 + 2?"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "And 3 + 3?"},
]


def check_chat_template(tokenizer: Any, name: str) -> None:
    """Render a short conversation in a child process with limited time and memory.

    A template that refuses the conversation is fine; one that does not come to an end is not.

    Raises:
        PruneError: the template exceeds the limits.
    """
    if not getattr(tokenizer, "chat_template", None):
        return
    child = os.fork()
    if child == 0:
        _render(tokenizer)
    _, status = os.waitpid(child, 0)
    if status != 0:
        raise PruneError(
            f"{name}: its chat template needs more than {SECONDS} s or 1 GB for a short conversation;"
            " remove chat_template from tokenizer_config.json (or chat_template.jinja), or mend it"
        )


def _render(tokenizer: Any) -> None:
    """In the child: render and end the process, without running any of the parent's exit handlers."""
    try:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + EXTRA_BYTES,) * 2)
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        tokenizer.apply_chat_template(CONVERSATION, tokenize=False)
    except MemoryError:
        os._exit(1)
    except BaseException:  # a template may raise whatever it likes, and that is an answer
        os._exit(0)
    os._exit(0)
