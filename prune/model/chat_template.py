"""A chat template is a program of the checkpoint: it is tried out under limits before it is rendered here.

The sandbox of transformers keeps a template from reaching Python, not from looping or filling memory. The trial runs in
a fresh process, because a fork would take the threads and locks of torch along, and its memory would count. Assumption:
a template that renders a short conversation within the limits also renders the longer ones of a data set.
`python -m prune.model.chat_template SECONDS` renders what standard input holds; exit code 0: it came to an end.
"""

from __future__ import annotations

import contextlib
import functools
import json
import resource
import subprocess
import sys
from typing import Any

from prune.errors import PruneError

SECONDS = 5
EXTRA_BYTES = 1 << 30
OWN_BYTES = 1 << 29
"""Address space of the trial itself: Python, numpy and jinja take a third of it."""
WAIT = 60.0
"""Times the seconds of processor time: how long a busy machine may take over them."""
CONVERSATION = [
    {"role": "user", "content": "What is 2 + 2?"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "And 3 + 3?"},
]


def check_chat_template(tokenizer: Any, name: str) -> None:
    """Render a short conversation in a child process with limited time and memory, with every template there is.

    A template that refuses the conversation is fine; one that does not come to an end is not.

    Raises:
        PruneError: a template exceeds the limits.
    """
    found = getattr(tokenizer, "chat_template", None) or {}
    words = json.dumps({k: str(v) for k, v in getattr(tokenizer, "special_tokens_map", {}).items()})
    for template in found.values() if isinstance(found, dict) else [found]:
        if not _ends(str(template), words, SECONDS):
            raise PruneError(
                f"{name}: its chat template needs more than {SECONDS} s or 1 GB for a short conversation;"
                " remove chat_template from tokenizer_config.json (or chat_template.jinja), or mend it"
            )


@functools.lru_cache(maxsize=64)
def _ends(template: str, words: str, seconds: int) -> bool:
    """Whether a template comes to an end within the limits; `words` are the special tokens, as JSON."""
    given = json.dumps({"template": template, "words": json.loads(words)})
    command = [sys.executable, "-m", "prune.model.chat_template", str(seconds)]
    try:
        done = subprocess.run(command, input=given, text=True, capture_output=True, timeout=WAIT * seconds, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def main(seconds: int) -> int:
    """In the child: limits, then the rendering; whatever the template raises is an answer."""
    given = json.load(sys.stdin)
    from transformers.utils.chat_template_utils import render_jinja_template  # without torch

    with contextlib.suppress(ValueError, OSError):  # macOS has no such limit; the one on time stands
        resource.setrlimit(resource.RLIMIT_AS, (OWN_BYTES + EXTRA_BYTES,) * 2)
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
    try:
        render_jinja_template([CONVERSATION], chat_template=given["template"], **given["words"])
    except MemoryError:
        return 1
    except BaseException:
        return 0
    return 0


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1])))
