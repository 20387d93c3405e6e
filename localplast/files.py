"""Plain JSON for models and networks: quantities and arrays are tagged data, nothing is ever executed on loading."""

import base64
import dataclasses
import json
import os
import tempfile
import typing
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from brian2.units.fundamentalunits import Quantity, get_or_create_dimension

from localplast.equations.bounded import check_length
from localplast.errors import LocalplastError, NetworkError

__all__ = ["Data", "atomic_write", "check_fields", "decode", "encode", "read_json", "write_json"]

#: Largest power of a unit in a file.
LARGEST_POWER = 100


def encode(value):
    """Turn ``value`` into JSON data: dataclasses, mappings, sequences, quantities, arrays, numbers, strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    if isinstance(value, Quantity):
        dimensions = [float(d) for d in value.dim._dims]
        return {"quantity": encode(np.asarray(value)), "dimensions": dimensions}
    if isinstance(value, np.ndarray) and value.ndim:
        little = value.astype(value.dtype.newbyteorder("<"))
        data = base64.b64encode(np.ascontiguousarray(little).tobytes()).decode("ascii")
        return {"array": data, "dtype": little.dtype.str, "shape": list(value.shape)}
    if isinstance(value, (np.generic, np.ndarray)):
        return value.item()
    if isinstance(value, Mapping):
        return {"map": {str(k): encode(v) for k, v in value.items()}}
    if isinstance(value, (frozenset, set)):
        return [encode(v) for v in sorted(value)]
    if isinstance(value, (tuple, list)):
        return [encode(v) for v in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"cannot write a {type(value).__name__} to a plain file: {value!r}")


def decode(data, types):
    """Rebuild what :func:`encode` wrote; ``types`` maps class names to the dataclasses that may be built."""
    if isinstance(data, list):
        return tuple(decode(v, types) for v in data)
    if isinstance(data, str):
        check_length(data)
    if not isinstance(data, dict):
        return data
    if "quantity" in data:
        return Quantity(decode(data["quantity"], types), dim=decode_dimension(data["dimensions"]))
    if "array" in data:
        raw = base64.b64decode(data["array"])
        dtype = np.dtype(data["dtype"])
        if dtype.kind not in "biuf":
            raise ValueError(f"an array of dtype {data['dtype']!r} is not plain numbers and is not loaded")
        return np.frombuffer(raw, dtype).reshape(data["shape"]).astype(dtype.newbyteorder("="))
    if "map" in data:
        for key in data["map"]:
            check_length(key)
        return {k: decode(v, types) for k, v in data["map"].items()}
    name = data.get("type")
    if name not in types:
        raise ValueError(f"unknown type {name!r} in the file; known are {', '.join(sorted(types))}")
    fields = {k: decode(v, types) for k, v in data.items() if k != "type"}
    check_fields(f"a {name} in the file", types[name], fields)
    return types[name](**fields)


def decode_dimension(powers):
    """The dimension with these powers of the seven base units."""
    known = isinstance(powers, list) and len(powers) == 7
    if not known or not all(type(p) in (int, float) and abs(p) <= LARGEST_POWER for p in powers):
        raise ValueError(f"{str(powers)[:80]} are not the powers of a unit, seven numbers up to {LARGEST_POWER}")
    return get_or_create_dimension(tuple(powers))


def check_fields(label, cls, fields, error=ValueError):
    """Raise ``error`` unless ``fields`` hold what the annotations of a dataclass say."""
    kinds = {f.name: f.type for f in dataclasses.fields(cls)}
    for name, value in fields.items():
        if name in kinds and not fits(value, kinds[name]):
            kind = getattr(kinds[name], "__name__", kinds[name])
            raise error(f"{label}: {name} = {repr(value)[:80]} should be of type {kind}")


def fits(value, kind):
    """Whether ``value`` is of a type, or of one of several; any single number serves for a float."""
    kinds = typing.get_args(kind) or (kind,)
    number = isinstance(value, (float, int, np.number, np.ndarray)) and np.ndim(value) == 0
    others = {float: number, int: isinstance(value, np.integer), bool: isinstance(value, np.bool_), object: True}
    return any(isinstance(value, k) or others.get(k, False) for k in kinds)


def atomic_write(path, data):
    """Write ``bytes`` to a temporary file in the same folder, then rename: a reader never sees half a file."""
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_json(path, value):
    """Write ``value`` (see :func:`encode`) to ``path``, atomically."""
    atomic_write(path, json.dumps(encode(value), indent=1).encode())


def read_json(path, types):
    """Read what :func:`write_json` wrote.

    Raises
    ------
    NetworkError
        It holds something else, or numbers and names that the parts do not take.
    """
    try:
        return decode(json.loads(Path(path).read_text()), types)
    except LocalplastError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        reason = str(error)[:200] or type(error).__name__
        raise NetworkError(f"{path} holds no readable network or model: {reason}") from None


class Data:
    """Equality by content: what two objects would write to a file."""

    def __eq__(self, other):
        return type(self) is type(other) and encode(self) == encode(other)

    __hash__ = None
