"""The loop that every worker shares: requests on standard input, answers on standard output. Standard library only."""

import json
import os
import sys


def serve(load):
    """Run one worker.

    Args:
        load: (model, options) -> an object with `version`, `max_length`, `generate`, `score` and, where it can,
            `predict` and (with a draft) `timed`.
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
            elif request["op"] == "predict":
                rows = [(r["ids"], r["first"]) for r in request["rows"]]
                say({"rows": worker.predict(rows, request["top_k"])})
            elif request["op"] == "timed":
                say(worker.timed(request["prompt"], request["max_new_tokens"], request.get("ignore_eos", False)))
            else:
                say({"rows": worker.score([(r["context"], r["continuation"]) for r in request["rows"]])})
        except Exception as error:
            say({"error": f"{type(error).__name__}: {error}"})


def tried_of(kept, passes, proposed):
    """Proposals kept and first rejected ones, which the server does not tell apart.

    From the mean number kept in a pass, a(1 - a^n) / (1 - a) for acceptance a and n proposals, whose a is kept / tried.
    """
    if not passes or not kept:
        return passes if proposed else 0
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(middle**k for k in range(1, proposed + 1)) < kept / passes else (low, middle)
    return kept / high
