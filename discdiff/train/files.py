"""Reads a user's own data: arrays, tables, image folders, tokens and text.

`read` decides by the path: ``.npy``, ``.npz``, ``.csv``, ``.txt`` or a folder of images. Either a
whole file is read, or a ``ValueError`` names the file, the rows, the columns and the values that
are at fault. Rows of ``.csv`` and ``.txt`` are numbered as lines of the file, from 1; rows of
arrays from 0. Text is UTF-8, with or without the byte-order mark that spreadsheets put first.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from .data import Categories, Counts, Dataset, Kind, Reals, Split, digits

Array = NDArray[Any]
SHOWN = 5  # faults named in one message
IMAGE_MODES = {"1": 1, "L": 255, "RGB": 255}  # mode → largest value
ENCODING = "utf-8-sig"  # UTF-8, a byte-order mark at its start is no part of the text
FLOAT_BITS, INTEGER_BITS = 53, 63  # integers below 2 to this power are told apart


def read(source: str, length: int = 64) -> Dataset:
    """The data that a name or a path stands for.

    Arguments:
        source: ``digits``, ``binary-digits``, or the path of a file or folder.
        length: Number of characters per item, where a text file has to be cut.

    Raises:
        ValueError: If the path does not exist, is of no known kind, or anything in it is wrong.
    """
    if source in ("digits", "binary-digits"):
        return digits(binary=source == "binary-digits")
    path = Path(source)
    if not path.exists():
        raise ValueError(f"--data {source}: there is no such file or folder")
    if path.is_dir():
        return read_images(path)
    readers = {".npy": read_array, ".npz": read_arrays, ".csv": read_table}
    if path.suffix == ".txt":
        return read_text(path, length)
    if path.suffix not in readers:
        raise ValueError(
            f"--data {source}: expected digits, binary-digits, a .npy, .npz, .csv or .txt file, "
            "or a folder of images"
        )
    return readers[path.suffix](path)


def read_array(path: Path) -> Dataset:
    """Items from a ``.npy`` file; the first axis counts them."""
    values = _load(path)
    if not isinstance(values, np.ndarray):
        raise ValueError(f"{path} cannot be read: it holds an archive of arrays; name it .npz")
    return _from_array(path, values)


def read_arrays(path: Path) -> Dataset:
    """Items ``x`` and, if present, labels ``y`` from a ``.npz`` file (or its only array)."""
    archive = _load(path)
    if isinstance(archive, np.ndarray):
        raise ValueError(f"{path} cannot be read: it holds one array; name it .npy")
    names = list(archive.files)
    if "x" not in names and len(names) != 1:
        raise ValueError(f"{path}: expected an array named x (and labels y); it holds {names}")
    try:
        values = archive["x" if "x" in names else names[0]]
        labels = archive["y"] if "x" in names and "y" in names else None
    except (ValueError, OSError, BadZipFile) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    return _from_array(path, values, labels)


def read_table(path: Path) -> Dataset:
    """Rows of a ``.csv`` file; a first line of names is a header, the column ``label`` labels."""
    lines = [(n, row) for n, row in _csv_lines(path) if row]
    if not lines:
        raise ValueError(f"{path} holds no rows")
    header = [] if any(_resembles_number(cell) for cell in lines[0][1]) else lines[0][1]
    rows = lines[1:] if header else lines
    width = len(lines[0][1])
    _refuse(path, _header_faults(lines[0][0], header))
    if not rows:
        raise ValueError(f"{path} holds a header but no rows")
    _refuse(path, (f"row {n}: {len(r)} columns, not {width}" for n, r in rows if len(r) != width))
    label = header.index("label") if "label" in header else None
    keep = [j for j in range(width) if j != label]
    if not keep:
        raise ValueError(f"{path} holds no column but label: there is nothing to train on")
    names = [header[j] if header else str(j + 1) for j in keep]
    cells = [[_number(row[j]) for j in keep] for _, row in rows]
    _refuse(
        path,
        (
            f"row {n}, column {names[k]}: {row[j]!r} is no finite number"
            for (n, row), numbers in zip(rows, cells, strict=True)
            for k, j in enumerate(keep)
            if numbers[k] is None
        ),
    )
    numbers = np.array(cells, dtype=np.float64).reshape(len(rows), len(keep))
    lines_of = [n for n, _ in rows]
    values, kind = _classify(path, numbers, lambda i, k: f"row {lines_of[i]}, column {names[k]}")
    labels = None
    if label is not None:
        labels = np.array([row[label] for _, row in rows])
        _refuse_labels(path, labels, lambda i: f"row {lines_of[i]}, column label")
    return _dataset(path, values, kind, labels, tuple(names) if header else ())


def read_text(path: Path, length: int) -> Dataset:
    """Tokens, one item of integers per line; or characters, cut into items of equal length."""
    try:
        text = path.read_text(encoding=ENCODING)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not text.strip():
        raise ValueError(f"{path} is empty")
    lines = [(n, line.split()) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    if all(_is_integer(word) for word in lines[0][1]):
        return _tokens(path, lines)
    return _characters(path, text, length)


def read_images(folder: Path) -> Dataset:
    """Images of one size and mode (1, L, RGB); sub-folders are classes."""
    endings = set(Image.registered_extensions())
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in endings and f.is_file())
    if not files:
        raise ValueError(f"{folder} holds no images")
    images = [_image(file) for file in files]
    size, mode = images[0].size, images[0].mode
    _refuse(
        folder,
        (
            f"{file.name}: {image.size[0]}×{image.size[1]} {image.mode}, but {files[0].name} is "
            f"{size[0]}×{size[1]} {mode}"
            for file, image in zip(files, images, strict=True)
            if (image.size, image.mode) != (size, mode)
        ),
    )
    if mode not in IMAGE_MODES:
        raise ValueError(f"{folder}: images of mode {mode}; convert them to L, RGB or 1")
    values = np.stack([np.asarray(image) for image in images])
    if mode == "RGB":
        values = values.transpose(0, 3, 1, 2)
    groups = [file.relative_to(folder).parts[0] for file in files]
    labelled = all(file.parent != folder for file in files)
    labels = np.array(groups) if labelled else None
    return _dataset(folder, values, Counts(IMAGE_MODES[mode]), labels)


def _load(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError, BadZipFile) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _image(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image.copy()
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _csv_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        with path.open(newline="", encoding=ENCODING) as file:
            reader = csv.reader(file)
            for row in reader:
                yield reader.line_num, [cell.strip() for cell in row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _tokens(path: Path, lines: list[tuple[int, list[str]]]) -> Dataset:
    width = len(lines[0][1])
    _refuse(path, (f"row {n}: {len(r)} tokens, not {width}" for n, r in lines if len(r) != width))
    _refuse(
        path,
        (
            f"row {n}, column {j + 1}: {word!r} is no token (an integer ≥ 0)"
            for n, row in lines
            for j, word in enumerate(row)
            if not _is_integer(word)
        ),
    )
    _refuse(
        path,
        (
            f"row {n}, column {j + 1}: {word} is too large: tokens must lie below 2^{INTEGER_BITS}"
            for n, row in lines
            for j, word in enumerate(row)
            if int(word) >= 2**INTEGER_BITS
        ),
    )
    values = np.array([[int(word) for word in row] for _, row in lines], dtype=np.int64)
    return _dataset(path, values, Categories(int(values.max()) + 1))


def _characters(path: Path, text: str, length: int) -> Dataset:
    vocabulary = "".join(sorted(set(text)))
    index = {character: i for i, character in enumerate(vocabulary)}
    count = len(text) // length
    codes = np.array([index[character] for character in text[: count * length]], dtype=np.int64)
    kind = Categories(len(vocabulary), vocabulary)
    return _dataset(path, codes.reshape(count, length), kind)


def _from_array(path: Path, values: Array, labels: Array | None = None) -> Dataset:
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{path}: expected an array of numbers; its dtype is {values.dtype}")
    if values.ndim == 0 or values.size == 0:
        raise ValueError(f"{path}: the array of shape {values.shape} holds no items")
    if labels is not None and labels.shape != (len(values),):
        raise ValueError(f"{path}: labels y must have shape ({len(values)},), not {labels.shape}")
    if labels is not None:
        _refuse_labels(path, labels, lambda i: f"row {i}")
    if values.ndim == 1:
        values = values[:, None]
    flat = values.reshape(len(values), -1)
    event = values.shape[1:]

    def where(i: int, k: int) -> str:
        column = np.unravel_index(k, event)
        return f"row {i}, column {', '.join(str(c) for c in column)}"

    checked, kind = _classify(path, flat, where)
    return _dataset(path, checked.reshape(values.shape), kind, labels)


def _classify(path: Path, values: Array, where: Any) -> tuple[Array, Kind]:
    """Integers ≥ 0 are counts, other finite numbers reals; (N, C) values, faults named."""
    if values.dtype == bool:
        return values.astype(np.uint8), Counts(1)
    _refuse_entries(path, values, ~np.isfinite(values), where, "is no finite number")
    fraction = values != np.round(values)
    if fraction.any():
        i, k = (int(v) for v in np.argwhere(fraction)[0])
        example = f"{path}: {where(i, k)}: {values[i, k]:g} is no integer"
        return values.astype(np.float64), Reals(example)
    _refuse_entries(path, values, values < 0, where, "is a negative count")
    bits = FLOAT_BITS if values.dtype.kind == "f" else INTEGER_BITS
    rule = f"is too large: such integers must lie below 2^{bits} to be told apart"
    _refuse_entries(path, values, values >= 2**bits, where, rule)
    return values.astype(np.uint8 if values.max() < 256 else np.int64), Counts(int(values.max()))


def _dataset(
    path: Path,
    values: Array,
    kind: Kind,
    labels: Array | None = None,
    columns: tuple[str, ...] = (),
) -> Dataset:
    classes: tuple[str, ...] = ()
    codes: Tensor | None = None
    if labels is not None:
        names, inverse = np.unique(labels, return_inverse=True)
        classes, codes = tuple(str(n) for n in names), torch.from_numpy(inverse.astype(np.int64))
    items = torch.from_numpy(np.ascontiguousarray(values))
    split = Split.usual(len(items), str(path))
    return Dataset(path.stem, items, kind, split, codes, classes, columns)


def _header_faults(n: int, header: Sequence[str]) -> Iterator[str]:
    for j, name in enumerate(header):
        if not name:
            yield f"row {n}: column {j + 1} has no name"
        elif name in header[:j]:
            yield f"row {n}: columns {header.index(name) + 1} and {j + 1} are both named {name}"


def _refuse_labels(path: Path, labels: Array, where: Callable[[int], str]) -> None:
    """Refuses labels that say of no item which class it is in: empty ones and NaN."""
    if labels.dtype.kind not in "biufUS":
        raise ValueError(f"{path}: labels must be numbers or names; their dtype is {labels.dtype}")
    names = [str(label).strip() for label in labels.tolist()]
    _refuse(
        path,
        (
            f"{where(i)}: {name!r} is no label"
            for i, name in enumerate(names)
            if name in ("", "b''") or (_resembles_number(name) and math.isnan(float(name)))
        ),
    )


def _number(cell: str) -> float | None:
    """A finite number as files spell it; 1_0, which Python reads as 10, is none."""
    if "_" in cell or not cell.isascii() or not _resembles_number(cell):
        return None
    value = float(cell)
    return value if math.isfinite(value) else None


def _resembles_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _is_integer(word: str) -> bool:
    return word.isascii() and word.isdigit()


def _refuse_entries(path: Path, values: Array, bad: Array, where: Any, rule: str) -> None:
    spelling = "g" if values.dtype.kind == "f" else "d"
    _refuse(
        path,
        (
            f"{where(int(i), int(k))}: {values[i, k]:{spelling}} {rule}"
            for i, k in np.argwhere(bad)
        ),
    )


def _refuse(path: Path, faults: Iterator[str]) -> None:
    """Raises if there are faults, naming the first few."""
    first: Sequence[str] = [fault for fault, _ in zip(faults, range(SHOWN + 1), strict=False)]
    if first:
        _raise(path, first)


def _raise(path: Path, faults: Sequence[str]) -> NoReturn:
    more = "; and more" if len(faults) > SHOWN else ""
    raise ValueError(f"{path}: " + "; ".join(faults[:SHOWN]) + more)
