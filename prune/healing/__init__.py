"""Healing: train a pruned model back towards the original, on transformers' Trainer and peft.

`heal.heal` is the entry; `settings.HealSettings` its options; `generate.generate_answers` makes training documents
from the original model's own answers. Import from the modules: this file imports none, so that reading the settings
costs no torch.
"""

import logging

# On import bitsandbytes warns that a kernel of its CPU inference path, which is not used here, was not downloaded.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
