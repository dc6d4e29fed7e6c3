"""The loop that every worker shares: requests on standard input, answers on standard output. Standard library only."""

import json
import os
import sys


def serve(load):
    """Run one worker.

    Args:
        load: (model, options) -> an object with `version`, `max_length`, `generate` and `score`.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf8")
    os.dup2(2, 1)  # what the runtime prints must not fall between the answers
    sys.stdout = sys.stderr
    model, options = sys.argv[1], json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}

    def say(value):
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    try:
        worker = load(model, options)
    except Exception as error:
        say({"error": f"{type(error).__name__}: {error}"})
        raise
    say({"ready": True, "version": worker.version, "max_length": worker.max_length})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["op"] == "generate":
                say(
                    {"ids": worker.generate(request["prompts"], request["max_new_tokens"], request.get("stop_ids", []))}
                )
            else:
                say({"rows": worker.score([(r["context"], r["continuation"]) for r in request["rows"]])})
        except Exception as error:
            say({"error": f"{type(error).__name__}: {error}"})
