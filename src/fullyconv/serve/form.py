"""A form (multipart/form-data, RFC 7578) as it comes: its one file goes to disk, its fields are kept."""

from typing import BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from fullyconv.errors import DataError
from fullyconv.serve.limits import Limits

__all__ = ["Form"]


class Form:
    """Reads a form.

    Args:
        content_type: Of the request, with the boundary.
        file: Where the one file goes.
        limits: Of fields, their bytes, and the boundary.

    Attributes:
        file_name: What the sender calls the file; None if there is none.
        fields: Of the form.

    Raises:
        DataError: There is no boundary, or one that cannot be.
    """

    def __init__(self, content_type: str, file: BinaryIO, limits: Limits) -> None:
        self.file_name: str | None = None
        self.fields: dict[str, str] = {}
        self._file = file
        self._limits = limits
        self._header = [b"", b""]
        self._disposition = b""
        self._name = ""
        self._parts = 0
        self._field: bytearray | None = None
        self._ended = False
        boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
        if not 0 < len(boundary) <= limits.boundary or not boundary.isascii():
            raise DataError(f"expected a form with a boundary of 1 to {limits.boundary} signs")
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": lambda data, start, end: self._add_to_header(0, data[start:end]),
                "on_header_value": lambda data, start, end: self._add_to_header(1, data[start:end]),
                "on_header_end": self._end_header,
                "on_headers_finished": self._understand,
                "on_part_data": lambda data, start, end: self._take(data[start:end]),
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )

    def feed(self, data: bytes) -> None:
        """Read a piece of the form.

        Raises:
            DataError: It is damaged, or has more than it may.
        """
        try:
            self._parser.write(data)
        except FormParserError:
            raise DataError("the form is damaged") from None

    def finish(self) -> None:
        """Say that this was all of it.

        Raises:
            DataError: It is not whole, or has no file.
        """
        if not self._ended:
            raise DataError("the form is not whole: its last boundary is missing")
        if self.file_name is None:
            raise DataError("expected a form with one file, the image, got none")

    def _begin(self) -> None:
        self._disposition, self._name, self._field = b"", "", None
        self._parts += 1
        if self._parts > self._limits.fields:
            raise DataError(f"expected a form of at most {self._limits.fields} fields, got more")

    def _add_to_header(self, part: int, data: bytes) -> None:
        self._header[part] += data

    def _end_header(self) -> None:
        name, value = self._header
        if name.lower() == b"content-disposition":
            self._disposition = value
        self._header = [b"", b""]

    def _understand(self) -> None:
        """Begin a part: it is the file if it has a file name, else a field."""
        options = parse_options_header(self._disposition)[1]
        if b"name" not in options:
            raise DataError("the form has a part without a name")
        if self._parts > self._limits.fields:
            raise DataError(f"expected a form of at most {self._limits.fields} fields and files, got more")
        if b"filename" in options:
            if self.file_name is not None:
                raise DataError("expected a form with one file, got several")
            self.file_name = options[b"filename"].decode("utf-8", "replace")
            return
        self._name, self._field = options[b"name"].decode("utf-8", "replace"), bytearray()

    def _take(self, data: bytes) -> None:
        if self._field is None:
            self._file.write(data)
            return
        self._field += data
        if len(self._field) > self._limits.field_bytes:
            raise DataError(f"expected fields of at most {self._limits.field_bytes} bytes, got more")

    def _end_part(self) -> None:
        if self._field is not None:
            self.fields[self._name] = self._field.decode("utf-8", "replace")

    def _end(self) -> None:
        self._ended = True
