"""The Hugging Face Hub: download BlinkDL's checkpoints, upload converted directories."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    FileMetadataError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)
from huggingface_hub.file_download import HfFileMetadata, http_get, repo_folder_name
from huggingface_hub.utils import build_hf_headers, httpx, validate_repo_id

from ..atomic import link_or_copy, locked, replaced_file, write_text
from ..checkpoints.files import sha256
from ..checkpoints.versions import WORLD_ROWS
from ..errors import InputError
from .contents import model_names, names_in
from .loading import check_directory, read_config
from .reading import is_world

SHA256, COMMIT = r"[0-9a-f]{64}", r"[0-9a-f]{40}"
# errors of a folder or a disk, not of the network
NOT_WRITTEN = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOSPC, errno.ENAMETOOLONG}


def download_checkpoint(repo_id: str, file_name: str, revision: str | None = None) -> Path:
    """Download one file from the Hub into Hugging Face's cache, or find it there, and return its path.

    A download that broke off, even by the end of the process, is resumed where it stopped; ``hf_hub_download`` of
    huggingface_hub 2.4 begins again. The price is plain HTTP, without the parallel chunks of the Hub's Xet storage. The
    file gets its name only after its SHA-256 has been compared with the one that the Hub announces.

    Raises:
        InputError: no network and no copy in the cache, no such repository, revision or file, a damaged download, or a
            cache that cannot be written.
    """
    where = f"{file_name} of {repo_id}" + (f" at {revision}" if revision else "")
    with clear_errors(f"download {where}"), cache_at_fault(f"download {where}"):
        try:
            url = hf_hub_url(repo_id, file_name, revision=revision)
            metadata = get_hf_file_metadata(url)
        except (httpx.TransportError, OfflineModeIsEnabled):
            metadata = None
        if metadata and re.fullmatch(SHA256, metadata.etag or ""):  # a large file: the tag is its SHA-256
            blob = fetch(metadata, url, repo_id, where)
            if metadata.commit_hash is None:
                return name_in_cache(blob, file_name, revision or constants.DEFAULT_REVISION)
        return Path(hf_hub_download(repo_id, file_name, revision=revision, local_files_only=metadata is None))


def fetch(metadata: HfFileMetadata, url: str, repo_id: str, where: str) -> Path:
    """Put a large file into the cache, under its SHA-256 as the cache keeps it, unless it is there already.

    Raises:
        InputError: another process is downloading it, or it arrived damaged.
    """
    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo_id, repo_type="model") / "blobs"
    assert metadata.etag is not None  # it is the SHA-256
    blob = folder / metadata.etag
    if blob.exists():
        return blob
    with locked(folder / f"{metadata.etag}.partial", Path(where)):
        partial = folder / f"{metadata.etag}.partial" / "data"
        with open(partial, "ab") as file:
            http_get(url, file, resume_size=file.tell(), headers=build_hf_headers(), expected_size=metadata.size)
        if sha256(partial) != metadata.etag:
            partial.unlink()
            raise InputError(f"{where} arrived damaged: its SHA-256 is not the announced one; run the command again.")
        partial.replace(blob)
        partial.parent.rmdir()
    return blob


def name_in_cache(blob: Path, file_name: str, revision: str) -> Path:
    """Give a file its name in the cache, and return it; for servers that do not say which commit they serve.

    ``hf_hub_download`` refuses these, which mirrors and proxies often are (huggingface_hub, issues 1600 and 1796). The
    file has been checked already, so its SHA-256 stands in the place of a commit.
    """
    repository = blob.parent.parent
    commit = revision if re.fullmatch(COMMIT, revision) else blob.name
    named = repository / "snapshots" / commit / file_name
    if not named.exists():
        named.parent.mkdir(parents=True, exist_ok=True)
        with replaced_file(named) as partial:
            link_or_copy(blob.resolve(), partial)
    reference = repository / "refs" / revision  # by which the file is found without a network; a real one stays
    if commit == blob.name and (not reference.exists() or re.fullmatch(SHA256, reference.read_text())):
        reference.parent.mkdir(parents=True, exist_ok=True)
        write_text(reference, commit)
    return named


@contextmanager
def cache_at_fault(what: str) -> Iterator[None]:
    """Say it in one sentence if the cache cannot be written."""
    try:
        yield
    except OSError as error:
        if error.errno not in NOT_WRITTEN:
            raise
        raise InputError(
            f"Cannot {what}: the cache {constants.HF_HUB_CACHE} cannot be written ({error.strerror}); make room there, "
            "or set HF_HOME to another folder."
        ) from None


@contextmanager
def clear_errors(what: str) -> Iterator[None]:
    """Turn what the Hub or the network may raise into one sentence."""
    try:
        yield
    except OfflineModeIsEnabled:
        raise InputError(f"Cannot {what}: the network is switched off by HF_HUB_OFFLINE; unset it first.") from None
    except LocalEntryNotFoundError as error:
        if isinstance(error.__cause__, FileMetadataError):
            raise InputError(
                f"Cannot {what}: {constants.ENDPOINT} sends no commit or no checksum of the file, as a Hub does; set "
                "HF_ENDPOINT to another server, or download the file yourself and give its path."
            ) from None
        raise InputError(
            f"Cannot {what}: the Hub cannot be reached, and there is no copy in the cache; "
            "connect to the network, or download the file elsewhere and give its path."
        ) from None
    except (HfHubHTTPError, HFValidationError, ValueError) as error:  # ValueError: a name that no file can have
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        reason = next((line for line in lines if not re.match(r"\d{3} |Client error|Server error", line)), lines[0])
        raise InputError(f"Cannot {what}: {reason.rstrip('.')}; check the names, and log in if need be.") from None
    except (httpx.HTTPError, OSError) as error:
        raise InputError(f"Cannot {what}: {error}; check the network and the disk, and try again.") from None


def files_to_push(folder: Path, also: tuple[str, ...] = ()) -> list[Path]:
    """Return the files of a converted directory that belong to the model, and those that match a pattern of ``also``.

    Raises:
        InputError: ``folder`` holds no complete model, a file of it is damaged or a link, or a pattern matches nothing.
    """
    check_directory(folder, with_tokenizer=is_world(folder, read_config(folder).get("vocab_size", WORLD_ROWS)))
    everything, chosen = names_in(folder), set(model_names(folder))
    for pattern in also:
        matching = {name for name in everything if fnmatchcase(name, pattern)}
        if not matching:
            raise InputError(f"--also {pattern} matches no file in {folder}; hidden files are never uploaded.")
        chosen |= matching
    files = [folder / name for name in everything if name in chosen]
    for file in files:
        if any(path.is_symlink() for path in (file, *file.parents) if path.is_relative_to(folder) and path != folder):
            raise InputError(f"{file} is a symbolic link, which is not uploaded; put the file itself in its place.")
        if not file.is_file():
            raise InputError(f"{file} is no ordinary file, and is not uploaded; remove it.")
    return files


def left_out(folder: Path, files: list[Path]) -> list[str]:
    """Return the names of what is in a directory, not hidden, and not among ``files``."""
    chosen = {file.relative_to(folder).as_posix() for file in files}
    return [name for name in names_in(folder) if name not in chosen]


def push(
    folder: Path, repo_id: str, private: bool = False, dry_run: bool = False, also: tuple[str, ...] = ()
) -> list[Path]:
    """Upload a converted directory to ``repo_id``, creating the repository if needed, and return the files.

    Args:
        also: patterns of further files, see :func:`files_to_push`.

    Raises:
        InputError: ``folder`` is no converted directory, there is no network, the Hub refuses, or ``private`` is wanted
            and the repository is there already and public.
    """
    files = files_to_push(folder, also)
    with clear_errors(f"upload to {repo_id}"):
        validate_repo_id(repo_id)
        if dry_run:
            return files
        api = HfApi()
        api.create_repo(repo_id, private=private, exist_ok=True)
        if private and not api.model_info(repo_id).private:
            raise InputError(f"{repo_id} exists and is public; make it private first, or give another name.")
        operations = [CommitOperationAdd(file.relative_to(folder).as_posix(), str(file)) for file in files]
        api.create_commit(repo_id, operations, commit_message="Upload converted RWKV model")
    return files
