"""Reads an exported file as its users do, and prints what is in it as JSON, for a test to compare.

`readers.py FILE.parquet` or `readers.py FILE.npz`. Each column is a list with a value a row; floats are given by their
bits, so that nothing is lost, and what is absent is null.
"""

import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def bits(floats):
    return np.asarray(floats, dtype=np.float32).view(np.uint32).tolist()


def of_parquet(path):
    table = pq.read_table(path)
    model = (table.schema.metadata or {}).get(b"vector_model", b"").decode()
    columns = {}
    for field, column in zip(table.schema, table.columns):
        if pa.types.is_timestamp(field.type):
            assert (field.type.unit, field.type.tz) == ("us", "UTC"), field
            column = column.cast(pa.int64())
        values = column.to_pylist()
        if field.type == pa.float32():
            values = [None if value is None else bits([value])[0] for value in values]
        elif pa.types.is_list(field.type) and field.type.value_type == pa.float32():
            values = [None if value is None else bits(value) for value in values]
        columns[field.name] = values
    return {"vector_model": model, "columns": columns}


def texts(npz, name):
    """A column of texts: the recipe of docs/export.md."""
    data, at = npz[name].tobytes(), npz[name + "_offsets"]
    return [data[at[i] : at[i + 1]].decode() for i in range(len(at) - 1)]


def of_npz(path):
    with np.load(path, allow_pickle=False) as npz:
        columns = {}
        for name in npz.files:
            if name == "vector_model" or name.endswith(("_offsets", "_valid")):
                continue
            array = npz[name]
            if name + "_offsets" in npz.files:
                values = texts(npz, name)
            elif array.dtype == np.float32 and array.ndim == 2:
                values = [None if np.isnan(row).any() else bits(row) for row in array]
            elif array.dtype == np.float32:
                values = [None if np.isnan(value) else bits([value])[0] for value in array]
            elif array.dtype == np.dtype("datetime64[us]"):
                values = array.astype(np.int64).tolist()
            else:
                values = array.tolist()
            if name + "_valid" in npz.files:
                valid = npz[name + "_valid"]
                assert valid.dtype == np.bool_ and len(valid) == len(values), name
                values = [value if there else None for value, there in zip(values, valid)]
            columns[name] = values
        model = str(npz["vector_model"]) if "vector_model" in npz.files else ""
        return {"vector_model": model, "columns": columns}


if __name__ == "__main__":
    if sys.argv[1] == "--check":
        print(f"readers: numpy {np.__version__}, pyarrow {pa.__version__}")
    else:
        read = of_npz if sys.argv[1].endswith(".npz") else of_parquet
        json.dump(read(sys.argv[1]), sys.stdout)
