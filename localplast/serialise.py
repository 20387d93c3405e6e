"""Plain JSON for models and networks: quantities and arrays are tagged data, nothing is ever executed on loading."""

import base64
import dataclasses
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from brian2.units.fundamentalunits import Quantity, get_or_create_dimension

__all__ = ["encode", "decode", "write_json", "read_json", "atomic_write"]


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
    if not isinstance(data, dict):
        return data
    if "quantity" in data:
        value = decode(data["quantity"], types)
        dimension = get_or_create_dimension(tuple(data["dimensions"]))
        return Quantity(value, dim=dimension)
    if "array" in data:
        raw = base64.b64decode(data["array"])
        dtype = np.dtype(data["dtype"])
        if dtype.kind not in "biuf":
            raise ValueError(f"an array of dtype {data['dtype']!r} is not plain numbers and is not loaded")
        return np.frombuffer(raw, dtype).reshape(data["shape"]).astype(dtype.newbyteorder("="))
    if "map" in data:
        return {k: decode(v, types) for k, v in data["map"].items()}
    name = data.get("type")
    if name not in types:
        raise ValueError(f"unknown type {name!r} in the file; known are {', '.join(sorted(types))}")
    cls = types[name]
    return cls(**{k: decode(v, types) for k, v in data.items() if k != "type"})


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
    """Read what :func:`write_json` wrote."""
    return decode(json.loads(Path(path).read_text()), types)
