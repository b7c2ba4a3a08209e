"""The Hugging Face Hub: download BlinkDL's checkpoints, upload converted directories."""

import argparse
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from .errors import InputError


def download_checkpoint(repo_id: str, file_name: str, revision: str | None = None) -> Path:
    """Download one file from the Hub, or find it in the local cache, and return its path.

    A download that broke off is resumed, and the file appears in the cache only when it is complete.

    Raises:
        InputError: no network, or no such repository, revision or file.
    """
    try:
        return Path(hf_hub_download(repo_id, file_name, revision=revision))
    except LocalEntryNotFoundError:
        raise InputError(
            f"Cannot reach the Hub for {repo_id}/{file_name}, and it is not in the cache; "
            "connect to the network, or download the file elsewhere and give its path."
        ) from None
    except (HfHubHTTPError, HFValidationError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(f"Cannot download {file_name} from {repo_id}: {reason} Check both names.") from None


def push(folder: Path, repo_id: str, private: bool = False, dry_run: bool = False) -> list[Path]:
    """Upload a converted directory to ``repo_id``, creating the repository if needed, and return the files.

    Raises:
        InputError: ``folder`` is no converted directory, there is no network, or the Hub refuses.
    """
    if not (folder / "config.json").is_file() or not any(folder.glob("model*.safetensors")):
        raise InputError(f"{folder} is not a converted model: it needs config.json and model.safetensors; run convert.")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if dry_run:
        return files
    api = HfApi()
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Upload converted RWKV model")
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(f"Cannot upload to {repo_id}: {reason} Check the name, the network and your login.") from None
    return files


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="a directory made by convert")
    parser.add_argument("repo_id", metavar="REPO", help="for example your-name/rwkv-5-world-0.1b")
    parser.add_argument("--private", action="store_true", help="create a private repository")
    parser.add_argument("--dry-run", action="store_true", help="only list what would be uploaded")


def main(args: argparse.Namespace) -> int:
    files = push(args.folder, args.repo_id, args.private, args.dry_run)
    print(f"{'would upload' if args.dry_run else 'uploaded'} to {args.repo_id}:")
    for file in files:
        print(f"  {file.stat().st_size:>14,}  {file.relative_to(args.folder)}")
    return 0
