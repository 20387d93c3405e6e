"""Files of datasets: where they lie, and that they are the originals.

They are looked for in the folder named by the environment variable ``LOCALPLAST_DATA`` first, and are else downloaded
once into the user's cache. Either way their SHA-256 must be the one in ``localplast/registry.json``.
"""

import functools
import hashlib
import json
import os
from importlib import resources
from pathlib import Path

import platformdirs
import pooch

from localplast.errors import DatasetError

__all__ = ["locate", "registry"]


@functools.cache
def registry() -> dict:
    """Every dataset that is read from files: source, licence, and per file its SHA-256 and address."""
    return json.loads(resources.files("localplast").joinpath("registry.json").read_text(encoding="utf-8"))


def locate(name: str, file: str) -> str | Path:
    """Path of one checked file of the dataset ``name``, downloaded if need be."""
    entry = registry()[name]["files"][file]
    folder = os.environ.get("LOCALPLAST_DATA")
    if folder and (path := Path(folder, name, file)).is_file():
        check_digest(path, entry["sha256"])
        return path
    looked = f"{path} (LOCALPLAST_DATA)" if folder else "no folder, as LOCALPLAST_DATA is not set"
    advice = f"Put the file into <folder>/{name}/ and set LOCALPLAST_DATA=<folder>"
    if entry["url"] is None:
        source = registry()[name]["source"]
        raise DatasetError(
            f"dataset {name!r}: no {file}. Looked in {looked}; it cannot be downloaded, for it was packed from "
            f"{source}. {advice}"
        )
    cache = platformdirs.user_cache_path("localplast") / name
    try:
        return pooch.retrieve(entry["url"], known_hash=f"sha256:{entry['sha256']}", fname=file, path=cache)
    except (OSError, ValueError) as error:  # no connection, no permission, or not the file we asked for
        raise DatasetError(
            f"dataset {name!r}: no {file}. Looked in {looked} and in {cache}, and could not download {entry['url']} "
            f"({type(error).__name__}: {error}). {advice}, or connect to the internet and try again"
        ) from error


def check_digest(path: Path, expected: str) -> None:
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected:
        raise DatasetError(
            f"{path} is not the original file: its SHA-256 is {found}, not {expected}. Replace it, or remove it so "
            "that it is downloaded"
        )
