"""push: an export and its card go to a repository of the Hugging Face hub; a door to its client."""

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from lab.records.errors import StorageError

CARD = "README.md"
"""What the hub shows of a repository."""
METADATA = "---\ntags:\n- steering-vector\n---\n\n"
"""What the hub finds a card by; it warns of one without."""


@dataclass(frozen=True, slots=True)
class HubRepository:
    """A repository that can be pushed to."""

    name: str
    """OWNER/NAME."""
    token: str


def hub_repository(name: str) -> HubRepository:
    """The repository `name` with the user's token; asks nothing of the network.

    Raises StorageError where `name` is not of the form OWNER/NAME, and without a token.
    """
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise StorageError(f"--push {name}: want OWNER/NAME: {error}") from error
    if "/" not in name:
        raise StorageError(f"--push {name}: want OWNER/NAME, such as me/{name}")
    token = get_token()
    if not token:
        raise StorageError(
            f"no token for the Hugging Face hub, so nothing is written; log in with `hf auth login` or set HF_TOKEN. "
            f"The export and its card, as {CARD}, would go to {name}"
        )
    return HubRepository(name, token)


def pushed_files(exported: Path) -> dict[str, Path]:
    """Path in the repository -> file here: those below a directory, or the one file. The card is not among them."""
    if exported.is_dir():
        inside = sorted(path for path in exported.rglob("*") if path.is_file())
        return {path.relative_to(exported).as_posix(): path for path in inside}
    return {exported.name: exported}


def push(exported: Path, card: str, repository: HubRepository) -> str:
    """Adds the files of `exported` and the `card` to `repository` as one commit; the commit's address.

    A repository that is not there is made, private; one that is there keeps its visibility, and its files unless one
    has the same name. Raises StorageError where the hub refuses or cannot be reached, with how to try again.
    """
    api = HfApi(token=repository.token)
    added = [CommitOperationAdd(name, path) for name, path in pushed_files(exported).items() if name != CARD]
    added.append(CommitOperationAdd(CARD, (METADATA + card).encode()))
    try:
        api.create_repo(repository.name, private=True, exist_ok=True)
        return str(api.create_commit(repository.name, added, commit_message=f"Add {exported.name}").commit_url)
    # Errors of the hub are OSErrors; those of the network are the client's own, which changes with its version.
    except Exception as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise StorageError(
            f"{exported} is written, but not pushed to {repository.name}: {reason}; once that is mended, delete it and "
            "give the same command again"
        ) from error
