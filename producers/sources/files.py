"""Open a CSV, JSON Lines, Parquet or Avro file as a source of rows.

A problem of the file as a whole (it does not exist, has another format or encoding, or other columns) is an InputError
before the first row.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from producers.sources.columnar import open_avro, open_parquet
from producers.sources.csv_and_jsonl import open_csv, open_jsonl
from producers.sources.source import Columns, Source
from schemas.dataset import Dataset
from schemas.errors import InputError
from schemas.row.message_text import show

FORMATS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".avro": "avro"}
SNIFFED = 1 << 16  # bytes read to recognize format and encoding
_OPENERS: dict[str, Callable[[Path, str, Columns], Source]] = {
    "csv": open_csv,
    "jsonl": open_jsonl,
    "parquet": open_parquet,
    "avro": open_avro,
}


def open_source(
    path: str | Path,
    dataset: Dataset,
    *,
    format: str | None = None,
    encoding: str | None = None,
    delete: bool = False,
    corrections: bool = False,
) -> Source:
    """The rows of a file, its columns checked against the contract; InputError if the file as a whole cannot be used.

    `format` is taken from the extension unless given; `encoding` is for CSV and JSON Lines, UTF-8 unless given. `delete`:
    only the key columns are required. `corrections`: the column `_receipt` is required too.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder: name a file in it.", f"{path} 是文件夹：请指定其中的文件。")
    if not path.is_file():
        raise InputError(
            f"{path}: no such file. Check the name and the folder.",
            f"{path}：没有这个文件。请检查文件名和所在文件夹。",
        )
    kind = format or FORMATS.get(path.suffix.lower())
    if kind is None or kind not in _OPENERS:
        en, zh = ("format", "格式") if format else ("extension", "扩展名")
        found = repr(format or path.suffix)
        raise InputError(
            f"{path}: the {en} {found} is not supported. Supported are .csv, .jsonl, .ndjson, .parquet and .avro; "
            "save it as one of these, or give the format with --format csv|jsonl|parquet|avro.",
            f"{path}：不支持{zh} {found}。可用 .csv、.jsonl、.ndjson、.parquet、.avro；"
            "请另存为其中一种，或用 --format csv|jsonl|parquet|avro 指明格式。",
        )
    try:
        with path.open("rb") as file:
            start = file.read(SNIFFED)
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}): check its permissions.",
            f"{path} 无法读取（{error.strerror}）：请检查权限。",
        ) from None
    _check_content(path, kind, start, encoding)
    try:
        return _OPENERS[kind](path, encoding or "utf-8-sig", Columns(dataset, delete, corrections))
    except (LookupError, UnicodeError):
        raise InputError(
            f"{path} cannot be read with --encoding {encoding}: give the encoding that the file has, such as utf-8 or gb18030.",
            f"{path} 无法以 --encoding {encoding} 读取：请指明文件实际的编码，例如 utf-8 或 gb18030。",
        ) from None


_MAGIC = [
    (b"PAR1", "parquet", "a Parquet file", "Parquet 文件"),
    (b"Obj\x01", "avro", "an Avro container file", "Avro 容器文件"),
    (b"PK\x03\x04", "", "a zip archive, as .xlsx is", "zip 压缩包（.xlsx 也是）"),
    (b"\x1f\x8b", "", "gzip-compressed", "gzip 压缩文件"),
    (b"\xd0\xcf\x11\xe0", "", "an old Excel or Word file", "旧版 Excel 或 Word 文件"),
    (b"%PDF", "", "a PDF file", "PDF 文件"),
    (b"SQLite format 3\0", "", "an SQLite database", "SQLite 数据库"),
]


def _check_content(path: Path, kind: str, start: bytes, encoding: str | None) -> None:
    """Check the first bytes of a file against its format and encoding; InputError says what the file looks like."""
    if not start or (kind in ("csv", "jsonl") and not start.removeprefix(b"\xef\xbb\xbf").strip()):
        raise InputError(
            f"{path} is empty: nothing was published. Check the export that wrote it.",
            f"{path} 是空文件：没有发布任何数据。请检查生成它的导出程序。",
        )
    signature = next((m for m in _MAGIC if start.startswith(m[0])), None)
    if signature and signature[1] != kind:
        todo = (f"Name it with --format {signature[1]}.", f"请用 --format {signature[1]} 指明。")
        if not signature[1]:
            todo = ("Unpack it, or save it as CSV in UTF-8.", "请先解压，或另存为 UTF-8 编码的 CSV。")
        raise InputError(
            f"{path} is not {kind}: it begins like {signature[2]}. {todo[0]}",
            f"{path} 不是 {kind}：开头像 {signature[3]}。{todo[1]}",
        )
    if kind in ("parquet", "avro"):
        if not signature:
            magic = "PAR1" if kind == "parquet" else "Obj 01"
            raise InputError(
                f"{path} is not {kind}: it begins {show(start[:12])}, expected {magic}. "
                "If it is text, name it with --format csv or --format jsonl.",
                f"{path} 不是 {kind}：开头为 {show(start[:12])}，应为 {magic}。"
                "如果是文本，请用 --format csv 或 --format jsonl 指明。",
            )
        return
    if encoding is not None:
        return
    guess = "UTF-16" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else _looks_like_gb18030(start) and "GB18030"
    if guess:
        raise InputError(
            f"{path} is not UTF-8: it looks like {guess}. Name it with --encoding {guess.lower()}, "
            "or save the file as UTF-8.",
            f"{path} 不是 UTF-8：看起来是 {guess}。请用 --encoding {guess.lower()} 指明，或另存为 UTF-8。",
        )


def _looks_like_gb18030(start: bytes) -> bool:
    """True if most bytes beyond ASCII are not UTF-8, but are Chinese when read as GB18030."""
    start = start[: start.rfind(b"\n") + 1] or start
    text = start.decode("utf-8", "surrogateescape")
    broken = sum("\udc80" <= c <= "\udcff" for c in text)
    if broken < 4 or broken * 2 < sum(b > 127 for b in start):
        return False
    chinese = [c for c in start.decode("gb18030", "replace") if c > "\x7f"]
    return sum(
        "\u4e00" <= c <= "\u9fff" or "\u3000" <= c <= "\u303f" or "\uff00" <= c <= "\uffef" for c in chinese
    ) > 0.9 * len(chinese)
