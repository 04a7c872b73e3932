"""Supported formats of users' files: every family with its file name endings and their media types. This is the only
list: upload routes accept what the parsers of `collect/documents` read."""

_OOXML = "application/vnd.openxmlformats-officedocument."
_ODF = "application/vnd.oasis.opendocument."

FAMILIES: dict[str, dict[str, str]] = {
    "text": {
        ".txt": "text/plain",
        ".md": "text/markdown",
        ".rst": "text/x-rst",
        ".ipynb": "application/x-ipynb+json",
    },
    "html": {".html": "text/html", ".htm": "text/html", ".xhtml": "application/xhtml+xml"},
    "rtf": {".rtf": "application/rtf"},
    "pdf": {".pdf": "application/pdf"},
    "docx": {
        ".docx": f"{_OOXML}wordprocessingml.document",
        ".docm": "application/vnd.ms-word.document.macroenabled.12",
    },
    "pptx": {
        ".pptx": f"{_OOXML}presentationml.presentation",
        ".pptm": "application/vnd.ms-powerpoint.presentation.macroenabled.12",
    },
    "opendocument": {".odt": f"{_ODF}text", ".odp": f"{_ODF}presentation"},
    "epub": {".epub": "application/epub+zip"},
    "email": {".eml": "message/rfc822", ".mbox": "application/mbox"},
    "outlook": {".msg": "application/vnd.ms-outlook"},
    "workbook": {
        ".xlsx": f"{_OOXML}spreadsheetml.sheet",
        ".xlsm": "application/vnd.ms-excel.sheet.macroenabled.12",
        ".xlsb": "application/vnd.ms-excel.sheet.binary.macroenabled.12",
        ".xls": "application/vnd.ms-excel",
        ".ods": f"{_ODF}spreadsheet",
    },
    "table": {".csv": "text/csv", ".tsv": "text/tab-separated-values"},
    "json": {".json": "application/json", ".jsonl": "application/x-ndjson", ".ndjson": "application/x-ndjson"},
    "parquet": {".parquet": "application/vnd.apache.parquet", ".arrow": "application/vnd.apache.arrow.stream"},
    "sqlite": {
        ".sqlite": "application/vnd.sqlite3",
        ".sqlite3": "application/vnd.sqlite3",
        ".db": "application/vnd.sqlite3",
    },
    "sql": {".sql": "application/sql"},
    "image": {
        ".png": "image/png",
        ".jpg": "image/jpeg",
        ".jpeg": "image/jpeg",
        ".gif": "image/gif",
        ".webp": "image/webp",
        ".tif": "image/tiff",
        ".tiff": "image/tiff",
        ".bmp": "image/bmp",
    },
    "arrays": {".npz": "application/x-npz"},
    "audio": {
        ".wav": "audio/wav",
        ".mp3": "audio/mpeg",
        ".flac": "audio/flac",
        ".ogg": "audio/ogg",
        ".opus": "audio/ogg",
        ".m4a": "audio/mp4",
    },
    "video": {
        ".mp4": "video/mp4",
        ".mov": "video/quicktime",
        ".mkv": "video/x-matroska",
        ".webm": "video/webm",
        ".avi": "video/x-msvideo",
    },
    "archive": {
        ".zip": "application/zip",
        ".tar": "application/x-tar",
        ".tgz": "application/gzip",
        ".gz": "application/gzip",
        ".bz2": "application/x-bzip2",
        ".xz": "application/x-xz",
    },
}

SUPPORTED = {ending: media for endings in FAMILIES.values() for ending, media in endings.items()}
"""Every ending with its media type. An ending is lower case and begins with a dot."""

FAMILY_OF_ENDING = {ending: family for family, endings in FAMILIES.items() for ending in endings}

SOURCE_TEXT = (
    ".py", ".pyi", ".c", ".h", ".cc", ".cpp", ".hpp", ".cu", ".java", ".js", ".ts", ".go", ".rs", ".r", ".jl", ".rb",
    ".scala", ".kt", ".swift", ".php", ".sh", ".css", ".tex", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".xml", ".log",
)  # fmt: skip
"""Endings of source code, configuration and similar files, which are read as plain text."""
