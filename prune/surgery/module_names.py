"""Names and patterns of modules that must mean, in the shallower model, what they meant in the original.

Quantisers write which modules they left alone as names, globs and regular expressions. Each kind of reader is a
predicate here, written after the reader's own matching; an entry is renumbered where it names one layer, kept where it
says the same of every kept module before and after, and otherwise written out as the names of the modules that it
matched. What no candidate expresses for every reader is refused. Assumption: modules are called as their tensors are
on disk, or as the same under another usual prefix (`VARIANTS`), or by the fused names of serving runtimes (`FUSED`).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from prune.errors import PruneError
from prune.surgery.names import FOREIGN

NUMBERED = re.compile(r"(?P<head>(?:^|\.)(?:layers|h|blocks|block|layer)\.)(?P<index>[0-9]{1,6})(?=\.|\*|$)")
ESCAPED = r"((?:layers|h|blocks|block|layer)\\?\.){}(?=\\?\.|\*|\$|$)"
PLAIN = re.compile(r"[\w.\-/]+")
SIGNS = ("re:", "+:", "-:")
"""compressed-tensors and torchao mark a regular expression, GPTQModel one that includes or excludes."""
VARIANTS = ("model.layers.", "language_model.model.layers.", "model.language_model.layers.", "language_model.layers.")
"""Prefixes that the same decoder has on disk, in memory and in other runtimes."""
FUSED = {"q_proj": "qkv_proj", "gate_proj": "gate_up_proj"}
"""One of the modules that vLLM joins -> the name of the joined one."""
USUAL = (("self_attn.{}_proj", ("q", "k", "v", "o")), ("mlp.{}_proj", ("gate", "up", "down")))
"""The modules of a layer where nothing but a config is known."""

Reader = Callable[[str, str], bool]
"""Whether an entry matches a module's name."""


def _compiled(pattern: str) -> re.Pattern[str] | None:
    try:
        return _compile(pattern)
    except re.error:
        return None  # so no reader can have read it


@functools.lru_cache(maxsize=4096)
def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _bare(entry: str) -> str:
    """An entry without its sign."""
    return next((entry.removeprefix(sign) for sign in SIGNS if entry.startswith(sign)), entry)


def marked(entry: str, name: str) -> bool:
    """`compressed_tensors.utils.match.match_name`: a marked regular expression from the start, else the very name."""
    if not entry.startswith("re:"):
        return entry == name
    return bool((found := _compiled(entry[3:])) and found.match(name))


def marked_whole(entry: str, name: str) -> bool:
    """torchao's `fqn_matches_fqn_config`: a marked regular expression of the whole name, else the very name."""
    if not entry.startswith("re:"):
        return entry == name
    return bool((found := _compiled(entry[3:])) and found.fullmatch(name))


def from_start(entry: str, name: str) -> bool:
    """GPTQModel's `dynamic`: every key is a regular expression from the start of the name."""
    return bool((found := _compiled(_bare(entry))) and found.match(name))


def anywhere(entry: str, name: str) -> bool:
    """AutoRound's `extra_config`: the very name, else a regular expression found in it."""
    return entry == name or bool(not PLAIN.fullmatch(entry) and (found := _compiled(entry)) and found.search(name))


def glob(entry: str, name: str) -> bool:
    """An asterisk as people mean it."""
    return fnmatchcase(name, entry)


def bounded(entry: str, name: str) -> bool:
    """transformers' `should_convert_module`: a regular expression from the start to a boundary, or the name's end."""
    found = _compiled(rf"(?:{_bare(entry)})(?:(?<=\.)|(?=\.|$))")
    return bool(found and found.match(name)) or name.endswith(entry)


def modelopt(entry: str, name: str) -> bool:
    """vLLM's reading of ModelOpt's exclusions: a glob, or any part of the name."""
    return fnmatchcase(name, entry) or entry in name


EXACT = (marked, marked_whole, from_start, anywhere, glob)
"""Readers to whom a name, as it is written out here, is that module alone."""


def readers_of(method: str, field: str) -> tuple[Reader, ...]:
    """Those who read patterns in a field of one method's configuration; what is written must be right for each."""
    if method == "compressed-tensors":
        return (marked,)
    if method == "modelopt":
        return (modelopt,)
    if field == "dynamic":
        return (from_start,)
    if field == "extra_config":
        return (anywhere,)
    if method == "auto-round":
        return bounded, anywhere
    if method == "torchao" and field != "modules_to_not_convert":
        return (marked_whole,)
    return (bounded,)


@dataclass(frozen=True)
class ModuleNames:
    """Modules of the original and what they are called after the cut (None: gone).

    Attributes:
        stored: by the names of their tensors, with the modules around them.
        others: the same under other prefixes, and fused ones; asked where an entry matches nothing that is stored.
        numbered: what only holds modules by number: layers, experts.
        new_index: old -> new number of the kept layers.
    """

    stored: Mapping[str, str | None]
    others: Mapping[str, str | None]
    numbered: Mapping[str, str | None]
    new_index: Mapping[int, int]

    @classmethod
    def of_tensors(
        cls, names: Iterable[str], renamed: Mapping[str, str], prefix: str, new_index: Mapping[int, int]
    ) -> ModuleNames:
        """From tensor names on disk, before and after (`prune.surgery.names.rename_tensors`)."""
        stored: dict[str, str | None] = {}
        numbered: dict[str, str | None] = {}
        for name in names:
            old, new = name, renamed.get(name)
            while "." in old:
                leaf = old is name
                old, new = old.rpartition(".")[0], new and new.rpartition(".")[0]
                table = stored if leaf or not old.rpartition(".")[2].isdecimal() else numbered
                if table.get(old) is None:  # what holds a layer that goes may hold one that stays
                    table[old] = new
        others: dict[str, str | None] = {}
        for known, now in stored.items():
            head, _, leaf_name = known.rpartition(".")
            if leaf_name in FUSED:
                others[f"{head}.{FUSED[leaf_name]}"] = now and f"{now.rpartition('.')[0]}.{FUSED[leaf_name]}"
        for known, now in [*stored.items(), *others.items()]:
            if known.startswith(prefix):
                for other in {*VARIANTS} - {prefix}:
                    others[other + known.removeprefix(prefix)] = now and other + now.removeprefix(prefix)
        return cls(stored, others, numbered, new_index)

    @classmethod
    def usual(cls, n: int, new_index: Mapping[int, int]) -> ModuleNames:
        """Where nothing but the config is known: a decoder with the usual names."""
        prefix = VARIANTS[0]
        parts = [form.format(part) for form, every in USUAL for part in every]
        renamed = {"lm_head.weight": "lm_head.weight"}
        renamed |= {f"{prefix}{i}.{p}.weight": f"{prefix}{new_index[i]}.{p}.weight" for i in new_index for p in parts}
        names = [f"{prefix}{i}.{part}.weight" for i in range(n) for part in parts]
        return cls.of_tensors([*names, "lm_head.weight"], renamed, prefix, new_index)

    def follow(self, entry: str, readers: Sequence[Reader], where: str) -> list[str]:
        """What an entry becomes: itself, itself renumbered, the names that it matched, or nothing.

        Raises:
            PruneError: no entry says of every kept module, to each reader, what this one said; names `where`.
        """
        # `layers.1.` is a pattern to those who read regular expressions: its last dot may be the 0 of layer 10.
        if PLAIN.fullmatch(entry) and not (bounded in readers and entry.endswith(".")):
            named = self._named(entry)
            # To ModelOpt's reader a name is any part of a name: `layers.3` is layer 3 of a vision tower, too.
            if modelopt not in readers or all(_same(entry, named, modelopt, t) for t in (self.stored, self.others)):
                return named
        readers = (*readers, *([glob] if _could_be_glob(entry) and glob not in readers else []))
        modules = self._matched_among(entry, readers)
        renumbered = self._renumbered(entry)
        if modules is None:
            if renumbered != [entry] or _is_foreign(entry) or not _counts_layers(entry):
                return [entry] if _is_foreign(entry) else renumbered
            raise PruneError(f"{where}: {entry!r} counts layers, but matches no module of this model; write names")
        if glob in readers and not any(glob(entry, name) for name in modules):
            readers = [reader for reader in readers if reader is not glob]
        for candidate in (renumbered, [entry]):
            if all(_same(entry, candidate, reader, modules) for reader in readers):
                return candidate
        for reader in readers:
            candidate = self._written_out(entry, reader, modules)
            asked = [other for other in readers if other is not reader or reader not in EXACT]
            if all(_same(entry, candidate, other, modules) for other in asked):
                return candidate
        raise PruneError(
            f"{where}: {entry!r} matches some layers and not others, and no pattern says the same to each of its"
            " readers: write the names of the modules instead"
        )

    def _named(self, entry: str) -> list[str]:
        """What a name without any pattern becomes: that of the same module, or the same name of another one."""
        known = next((table for table in (self.stored, self.numbered) if entry in table), None)
        if known is not None:
            return [] if (new := known[entry]) is None else [new]
        return [entry] if _is_foreign(entry) else self._renumbered(entry)

    def _renumbered(self, entry: str) -> list[str]:
        """The entry with the first layer number that is spelt out renumbered; nothing where that layer is gone."""
        match = NUMBERED.search(_bare(entry).replace("\\.", ".").lstrip("^").rstrip("$"))
        if match is None:
            return [entry]
        old = int(match["index"])
        if old not in self.new_index:
            return []
        return [re.sub(ESCAPED.format(old), lambda found: f"{found[1]}{self.new_index[old]}", entry, count=1)]

    def _matched_among(self, entry: str, readers: Sequence[Reader]) -> Mapping[str, str | None] | None:
        """The table in which any reader finds a match."""
        for table in (self.stored, self.others):
            if any(reader(entry, name) for name in table for reader in readers):
                return table
        return None

    def _written_out(self, entry: str, reader: Reader, modules: Mapping[str, str | None]) -> list[str]:
        """The new names of the kept modules that a reader matches, in the form of the entry."""
        found = [new for old, new in modules.items() if new is not None and reader(entry, old)]
        if reader not in (from_start, anywhere, marked_whole):
            return found
        # Keys of dictionaries: a pattern stays one, as a very name would go before patterns that went before it.
        sign = entry.removesuffix(_bare(entry))
        return [f"{sign}^{re.escape(name)}$" for name in found]


def _same(entry: str, candidate: Sequence[str], reader: Reader, modules: Mapping[str, str | None]) -> bool:
    """Whether a reader is told the same of every kept module."""
    plain = {name for name in candidate if PLAIN.fullmatch(name) and not name.endswith(".")}
    asked = [name for name in candidate if reader is modelopt or name not in plain]

    def told(name: str) -> bool:
        above = name
        while above:  # a plain name stands for itself and, to those who read prefixes, for all below it
            if above in plain:
                return True
            above = above.rpartition(".")[0] if reader is bounded else ""
        return any(reader(other, name) for other in asked)

    return all(reader(entry, old) == told(new) for old, new in modules.items() if new is not None)


def _is_foreign(entry: str) -> bool:
    return any(mark in entry for mark in FOREIGN)


def _could_be_glob(entry: str) -> bool:
    """Whether people may mean a glob: an asterisk, and nothing that only regular expressions have."""
    return not entry.startswith(SIGNS) and "*" in entry and re.search(r"[\\()|+^$]", entry) is None


def _counts_layers(entry: str) -> bool:
    """Whether a pattern that matches nothing here tells layers apart: it names their stack, or bears a sign, and holds
    a digit that is no part of a word."""
    bare = _bare(entry).replace("[0-9]", r"\d")
    about = entry.startswith(SIGNS) or re.search(r"(?:^|[^A-Za-z0-9_])(?:layers|h|blocks|block|layer)\\?\.", entry)
    return bool(about) and re.search(r"(?<![A-Za-z0-9_])[0-9]", bare) is not None
