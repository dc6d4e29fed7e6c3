"""Access tokens out of everything that is written or shown: logs, messages, manifests, reports, evidence.

Three rules. What has the shape of a known service's token goes; so does what stands behind a name such as `password=`,
and the value of any environment variable whose name says that it is secret. Short values are left alone, since
removing them would garble ordinary text; hashes have no shape of their own and stay.
"""

from __future__ import annotations

import functools
import html
import json
import os
import re
from collections.abc import Iterable
from typing import Any

SHORTEST = 8
"""Characters from which the value of a secret-like variable is removed."""
REMOVED = "[removed]"

SHAPES = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"hf_[A-Za-z0-9]{20,}|api_org_[A-Za-z0-9]{20,}"  # Hugging Face: a user's, an organisation's
    r"|gh[opsur]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}"
    r"|gl[a-z]{2,6}-[A-Za-z0-9_.-]{20,}"  # GitLab: glpat-, gldt-, glrt- and others
    r"|xox[a-z]-[A-Za-z0-9-]{10,}|xapp-[A-Za-z0-9-]{10,}"  # Slack
    r"|sk-(?:[A-Za-z0-9]{20,}|(?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{20,})"  # OpenAI, Anthropic; not words with hyphens
    r"|(?:gsk|pplx|xai|nvapi|r8|dop_v1|dckr_pat|npm|glsa|lin_api|hvs)[_.-][A-Za-z0-9_-]{20,}"
    r"|[rs]k_(?:live|test)_[A-Za-z0-9]{10,}|whsec_[A-Za-z0-9]{20,}"  # Stripe
    r"|(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}"  # Amazon: the name of a key
    r"|AIza[A-Za-z0-9_-]{30,}|ya29\.[A-Za-z0-9_-]{20,}|GOCSPX-[A-Za-z0-9_-]{20,}"  # Google
    r"|pypi-[A-Za-z0-9_-]{40,}|SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}|dapi[a-f0-9]{32}"
    r"|[0-9]{8,10}:AA[A-Za-z0-9_-]{30,}"  # Telegram
    r"|[A-Za-z0-9_~.]{3}[0-9]Q~[A-Za-z0-9_~.-]{31,}"  # Azure: an application's
    r"|eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"  # JSON web token
    r")"
    # In JSON a line break of a key is the two characters \n.
    r"|-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----(?:[A-Za-z0-9+/=:,\s-]|\\+[nr])*"
    r"|(?<=hooks\.slack\.com/services/)[A-Za-z0-9/]{20,}"
)
IN_ADDRESS = re.compile(r"(?<=://)[^/\s\"'<>@:]*(?::[^/\s\"'<>]+|(?<=[^/]{8}))(?=@)")
"""Who and with what, in `https://user:password@host`; alone, as in `https://TOKEN@host`, from 8 characters."""
ASSIGNED = re.compile(
    r"((?:(?:passw(?:or)?d|passphrase|secret|_pass|_pat|_?api[_-]?key|(?:access|account|private)[_-]?key"
    r"|(?:auth|access|refresh|session|bearer|hub|hf|github|gitlab|api|bot)[_-]?token)"
    r"(?:[_-](?:access[_-])?(?:key|token|id))?"
    r"(?:[\"']?\s{0,2}=\s{0,2}[\"']?"
    # A colon is in prose, too. Behind a quoted name stands JSON: what has no quotes there is a number, and no secret.
    r"|(?:[\"']\s{0,2}:\s{0,2}[\"']|\s{0,2}:\s{0,2}(?!-?\d+\.\d)[\"']?)(?=[^\s\"'<>,;&\\]{0,200}[0-9]))"
    r"|[?&;](?:token|key|sig|signature)=|\b(?:bearer|basic)\s(?=\S{16})(?=[a-z._~+/=-]{0,200}[0-9])))"
    r"[^\s\"'<>,;&\\]{8,}",
    re.IGNORECASE,
)
BEFORE = ("pass", "secret", "key", "_pat", "token", "sig", "bearer", "basic")
"""One of these is in every match of `ASSIGNED`, and looking for them is fifty times faster."""

SECRET_WORD = re.compile(r"(?:TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|PASSCODE|APIKEY|CREDENTIALS?|SECRETS)$")
SECRET_WORDS = frozenset({"PASS", "PAT", "PW"})
LAST_WORDS = frozenset({"KEY", "AUTH", "PWD"})
"""Words that mean a secret at the end of a name of several words: `OPENAI_KEY`, but not `PWD`."""
HARMLESS = frozenset(
    "PATH FILE DIR DIRECTORY SOCK NAME TYPE LIMIT LENGTH TTL COUNT HOST USER USERNAME ENDPOINT PARALLELISM".split()
)
"""Last words of names that are about a secret and hold none: `HF_TOKEN_PATH`."""


def without_secrets(text: str) -> str:
    """The text with every secret replaced by `[removed]`."""
    return _cleaned(text, _values())


def redacted(value: Any) -> Any:
    """A copy of a JSON value with every secret in its texts, names included, replaced by `[removed]`."""
    values = _values()

    def copied(item: Any) -> Any:
        if isinstance(item, str):
            return _cleaned(item, values)
        if isinstance(item, dict):
            return {copied(key): copied(part) for key, part in item.items()}
        return [copied(part) for part in item] if isinstance(item, list | tuple) else item

    return copied(value)


def _cleaned(text: str, values: Iterable[str]) -> str:
    if len(text) < SHORTEST:
        return text
    for value in values:
        text = text.replace(value, REMOVED)
    text = SHAPES.sub(REMOVED, text)
    if "://" in text:
        text = IN_ADDRESS.sub(REMOVED, text)
    lower = text.lower()
    return ASSIGNED.sub(rf"\1{REMOVED}", text) if any(word in lower for word in BEFORE) else text


def _values() -> list[str]:
    """The values of secret-like variables, as they are and as JSON and HTML write them; longest first."""
    found: set[str] = set()
    for name, held in os.environ.items():
        value = held.strip()
        if len(value) >= SHORTEST and is_secret(name) and not (value[0] == "/" and os.path.exists(value)):
            found |= {value, json.dumps(value, ensure_ascii=False)[1:-1], html.escape(value)}
            found.add(html.escape(value).replace("&#x27;", "&#39;").replace("&quot;", "&#34;"))  # as Jinja writes it
    return sorted(found, key=len, reverse=True)


@functools.cache
def is_secret(name: str) -> bool:
    """Whether the name of an environment variable says that its value is secret."""
    words = [word for word in re.split(r"[^A-Z0-9]+", name.upper()) if word]
    if not words or words[-1] in HARMLESS:
        return False
    if len(words) > 1 and words[-1] in LAST_WORDS:
        return True
    return any(word in SECRET_WORDS or SECRET_WORD.search(word) for word in words)
