"""Parsers of Redis replies that keep a bounded part of a reply, however large its entries are.

Redis has no command for the size of an entry: who wants its id has to receive it. The parsers of redis-py keep all of a
reply; these discard a value that would make its array (the fields of an entry, a hash) larger than MAX_BYTES, and the
elements beyond MAX_ITEMS. In the place of a discarded value is an OversizedValue.
"""

from __future__ import annotations

import asyncio
from typing import Any

from redis._parsers import _AsyncRESP2Parser, _RESP2Parser
from redis.exceptions import ConnectionError as RedisConnectionError

from retrain_worker.domain.decoding import MAX_BYTES, OversizedValue

#: elements of one array: more than any page of entries, or fields of an entry, that this program reads
MAX_ITEMS = 16_384
_CHUNK = 65536


def _oversized(length: int) -> OversizedValue:
    value = OversizedValue()
    value.length = length
    return value


def _length(line: bytes, kind: bytes) -> int | None:
    """The length that the line of an array or a string names; None for another line, and for one without a value."""
    return int(line[1:]) if line[:1] == kind and line[1:2] != b"-" else None


class BoundedParser(_RESP2Parser):
    """For connections of threads."""

    #: what may still be kept of the present array
    _room: int = MAX_BYTES
    _buffer: Any

    def read_response(self, *arguments: Any, **options: Any) -> Any:
        """One reply. After an error the caller closes the connection."""
        self._room = MAX_BYTES
        return super().read_response(*arguments, **options)

    def _read_response(self, *arguments: Any, **options: Any) -> Any:
        waiting = {name: value for name, value in options.items() if name == "timeout"}
        start = self._buffer.get_pos()
        line = self._buffer.readline(**waiting)
        if (num_items := _length(line, b"*")) is not None:
            return self._array(num_items, *arguments, **options)
        if (length := _length(line, b"$")) is not None:
            if length > self._room:
                self._skip(length + 2, waiting)
                return _oversized(length)
            self._room -= length
        self._buffer.rewind(start)
        return super()._read_response(*arguments, **options)

    def _array(self, num_items: int, *arguments: Any, **options: Any) -> list[Any]:
        outer, found = self._room, []
        self._room = MAX_BYTES
        for number in range(num_items):
            item = self._read_response(*arguments, **options)
            if number < MAX_ITEMS:
                found.append(item)
            if self._buffer.get_pos() > _CHUNK:
                self._forget()
        self._room = outer
        return found

    def _skip(self, left: int, waiting: dict[str, Any]) -> None:
        while left:
            chunk = self._buffer._buffer.read(min(left, _CHUNK))
            left -= len(chunk)
            if left and not chunk:
                self._forget()
                self._buffer._read_from_socket(**waiting)

    def _forget(self) -> None:
        """Drop what was read from the buffer."""
        buffer = self._buffer._buffer
        rest = buffer.read()
        buffer.seek(0)
        buffer.truncate()
        buffer.write(rest)
        buffer.seek(0)


class AsyncBoundedParser(_AsyncRESP2Parser):
    """For connections of asyncio."""

    _room: int = MAX_BYTES
    _buffer: bytes
    _pos: int
    _stream: Any

    async def read_response(self, *arguments: Any, **options: Any) -> Any:
        """One reply. After an error the caller closes the connection."""
        self._room = MAX_BYTES
        return await super().read_response(*arguments, **options)

    async def _read_response(self, *arguments: Any, **options: Any) -> Any:
        line = await self._readline()
        if (num_items := _length(line, b"*")) is not None:
            outer, found = self._room, []
            self._room = MAX_BYTES
            for number in range(num_items):
                item = await self._read_response(*arguments, **options)
                if number < MAX_ITEMS:
                    found.append(item)
                self._chunks.clear()
            self._room = outer
            return found
        if (length := _length(line, b"$")) is not None:
            if length > self._room:
                await self._skip(length + 2)
                return _oversized(length)
            self._room -= length
            return await self._read(length)
        self._buffer, self._pos = line + b"\r\n" + self._buffer[self._pos :], 0  # it is read again
        return await super()._read_response(*arguments, **options)

    async def _skip(self, left: int) -> None:
        while left:
            try:
                left -= len(await self._stream.readexactly(min(left, _CHUNK)))
            except asyncio.IncompleteReadError as error:
                raise RedisConnectionError("Connection closed by server.") from error
