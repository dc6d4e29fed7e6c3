"""Uploading an exported checkpoint to the Hugging Face hub, and nothing that was not exported.

The directory must hold a manifest whose hashes still verify. The token is given or found by huggingface_hub itself;
it is never written anywhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from evals.secrets import without_secrets
from prune.errors import PruneError, UsageError
from prune.packaging.manifest import read_manifest
from prune.packaging.verify import compare_hashes

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def check_repo_id(repo_id: str | None) -> str:
    """A hub id of the form `org/name`.

    Raises:
        UsageError: none given, or not of that form.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if not repo_id:
        raise UsageError("--push_to_hub needs --hub_model_id org/name")
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UsageError(f"--hub_model_id {repo_id!r}: {' '.join(str(error).split())}") from None
    return repo_id


def push(
    directory: Path, repo_id: str, *, private: bool = False, token: str | None = None, api: HfApi | None = None
) -> str:
    """Create the repository if needed and upload the directory in one commit; returns the repository's address.

    Raises:
        PruneError: files changed since the export, or the hub refuses; the local export stays as it is.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    compare_hashes(directory, read_manifest(directory)["files"])
    client = api or HfApi(token=token)
    try:
        address = client.create_repo(repo_id, private=private, repo_type="model", exist_ok=True)
        client.upload_folder(
            repo_id=repo_id, folder_path=directory, repo_type="model", commit_message="Depth-pruned checkpoint"
        )
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        reason = without_secrets(" ".join(str(error).split())[:300] or type(error).__name__)
        raise PruneError(f"{repo_id}: not pushed: {reason}; the export stands in {directory}") from None
    return str(address)
