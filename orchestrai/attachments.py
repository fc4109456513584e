"""Files and images that go with a prompt: named and hashed when the task is made, read when it is sent."""

from __future__ import annotations

import base64
import hashlib
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from orchestrai.errors import InvalidInput, InvalidPrompt

IMAGE_TYPES: Final = ("image/png", "image/jpeg", "image/gif", "image/webp")
_SIGNATURES: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)


@dataclass(frozen=True, slots=True)
class Attachment:
    """One file or image; `digest` is the SHA-256 of its bytes, so that a changed file is a changed task.

    Exactly one of `path` and `data` is set: what came from a path is read again when it is sent, so that ten
    thousand waiting tasks do not hold ten thousand images.
    """

    name: str
    media_type: str
    digest: str
    size: int
    path: Path | None = None
    data: bytes | None = None

    @property
    def is_image(self) -> bool:
        """True for the image types that providers accept."""
        return self.media_type in IMAGE_TYPES

    def read(self) -> bytes:
        """Return the bytes that were hashed.

        Raises:
            InvalidInput: The file is gone or has changed since the task was made.
        """
        if self.data is not None:
            return self.data
        assert self.path is not None
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise InvalidInput(f"{self.path}: cannot be read any more ({error.strerror}).") from error
        if hashlib.sha256(data).hexdigest() != self.digest:
            raise InvalidInput(f"{self.path}: the file changed after the task was made. Make the task again.")
        return data

    def text(self) -> str:
        """Return the content of a text file.

        Raises:
            InvalidInput: It is not UTF-8.
        """
        try:
            return self.read().decode("utf-8")
        except UnicodeDecodeError as error:
            raise InvalidInput(
                f"{self.name}: not a text file in UTF-8 (byte {error.start}) and no image of a known type "
                f"({', '.join(IMAGE_TYPES)})."
            ) from error

    def data_url(self) -> str:
        """Return the image as a `data:` URL."""
        return f"data:{self.media_type};base64,{base64.b64encode(self.read()).decode('ascii')}"


def from_path(path: str | Path) -> Attachment:
    """Return the file at `path`, hashed.

    Raises:
        InvalidInput: There is no such file, or it cannot be read.
    """
    path = Path(path).expanduser()
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{path}: cannot read this file ({error.strerror}).") from error
    return Attachment(path.name, _media_type(data, path.name), hashlib.sha256(data).hexdigest(), len(data), path=path)


def from_bytes(data: bytes, name: str = "image") -> Attachment:
    """Return bytes that are already in memory, hashed."""
    return Attachment(name, _media_type(data, name), hashlib.sha256(data).hexdigest(), len(data), data=bytes(data))


def image(source: Any) -> Attachment:
    """Return an image from a path, bytes, a PIL image, a `data:` URL or `{"url": "data:…"}`.

    Raises:
        InvalidPrompt: It is none of these, or no PNG, JPEG, GIF or WebP.
    """
    if isinstance(source, Attachment):
        found = source
    elif isinstance(source, Mapping) and "url" in source:
        return image(source["url"])
    elif isinstance(source, str) and source.startswith("data:"):
        head, _, body = source.partition(",")
        if not head.endswith(";base64"):
            raise InvalidPrompt("An image given as a data: URL must be base64.")
        found = from_bytes(base64.b64decode(body))
    elif isinstance(source, str) and source.startswith(("http://", "https://")):
        raise InvalidPrompt("An image is given as a path, bytes, a PIL image or a data: URL; links are not fetched.")
    elif isinstance(source, str | Path):
        found = from_path(source)
    elif isinstance(source, bytes | bytearray):
        found = from_bytes(bytes(source))
    elif hasattr(source, "save") and hasattr(source, "mode"):  # PIL, without importing it
        import io

        buffer = io.BytesIO()
        source.save(buffer, format="PNG")
        found = from_bytes(buffer.getvalue(), "image.png")
    else:
        raise InvalidPrompt(f"An image is a path, bytes or a PIL image, not {type(source).__name__}.")
    if not found.is_image:
        raise InvalidPrompt(f"{found.name}: not an image of a known type ({', '.join(IMAGE_TYPES)}).")
    return found


def _media_type(data: bytes, name: str) -> str:
    for signature, media_type in _SIGNATURES:
        if data.startswith(signature):
            return media_type
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    guessed = mimetypes.guess_type(name)[0]
    # A name may lie: what does not look like an image inside is not sent as one.
    return guessed if guessed and not guessed.startswith("image/") else "text/plain"
