"""Conversations in a tokenizer's chat template: a template that refuses one, or leaves a part of it out, is found out.

A template is a program: it may raise on a role, or pass over a system message, tools or a tool call without a word, and
the model is then asked something else than the data say. Assumption: a template that uses a part gives another text
when that part changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Message = Mapping[str, Any]
ASKED = {"role": "user", "content": "What is 2 + 2?"}
CHANGED = "\N{SECTION SIGN}7"
"""Put at the end of a message, to see whether the text changes with it."""


class NotRendered(ValueError):  # noqa: N818 (a finding; who knows file and row makes the error)
    """What a chat template did not make text of, and why."""


def render(tokenizer: Any, messages: Sequence[Message], *, add_generation_prompt: bool = False, **given: Any) -> str:
    """The text of a conversation.

    Args:
        given: what a template may use beside the messages: `tools`, `documents` or names of its own.

    Raises:
        NotRendered: the template raises, in one line.
    """
    try:
        made = tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=add_generation_prompt, **given
        )
    except Exception as error:  # whatever a program can raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        line = getattr(error, "lineno", None)
        if line is not None and "Syntax" in type(error).__name__:
            raise NotRendered(
                f"the tokenizer's chat template is no valid Jinja (line {line}: {reason}): mend chat_template.jinja, "
                "or chat_template in tokenizer_config.json"
            ) from error
        raise NotRendered(f"the tokenizer's chat template refuses this conversation ({reason})") from error
    return str(made)


def left_out(tokenizer: Any, messages: Sequence[Message], **given: Any) -> list[str]:
    """The parts of a conversation that do not reach its text: names of what was `given`, roles of messages, and
    `tool_calls`; empty where everything is there.

    Raises:
        NotRendered: as for `render`.
    """
    whole = render(tokenizer, messages, **given)

    def same(changed: Sequence[Message], rest: Mapping[str, Any]) -> bool:
        try:
            return render(tokenizer, changed, **rest) == whole
        except NotRendered:  # the template needs what was taken out, and so uses it
            return False

    missing = [name for name in given if same(messages, {key: value for key, value in given.items() if key != name})]
    first = {message["role"]: i for i, message in reversed(list(enumerate(messages))) if message["content"]}
    for role, position in sorted(first.items(), key=lambda item: item[1]):
        changed = [dict(message) for message in messages]
        changed[position]["content"] += CHANGED
        if same(changed, given):
            missing.append(f"the {role} message")
    if any("tool_calls" in message for message in messages):
        bare = [{key: value for key, value in message.items() if key != "tool_calls"} for message in messages]
        if same(bare, given):
            missing.append("tool_calls")
    return missing


def check_system(tokenizer: Any, instruction: str) -> None:
    """Refuse an instruction that the chat template would not put before the prompts.

    Raises:
        NotRendered: the template refuses system messages, or leaves them out without a word.
    """
    if "the system message" in left_out(tokenizer, [{"role": "system", "content": instruction}, ASKED]):
        raise NotRendered("the tokenizer's chat template leaves system messages out")
