"""One writer per folder: the kernel's advisory lock on a file in it, which a killed process cannot leave behind."""

import errno
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

NAME = ".lock"
SIGNING_SECONDS = 0.1  # from the lock to the line that names its holder, at most


class Held(RuntimeError):
    """Somebody else writes to a folder."""


@contextmanager
def hold(folder: str | os.PathLike) -> Iterator[None]:
    """Hold a folder for the length of a `with`; it is made where there is none.

    The lock is `flock`'s: it ends with the process, however that ends. Where there is none, on Windows and on some
    network drives, and in a folder that cannot be written to, nothing is held and nobody is refused.

    Raises:
        Held: a RuntimeError, when somebody holds it: names the folder, the process and its machine.
    """
    folder = Path(folder)
    path = folder / NAME
    file = _locked(path)
    try:
        yield
    finally:
        if file is not None:
            try:
                with suppress(OSError):  # a file that stays holds nothing
                    path.unlink()  # while it is held: whoever opened it meanwhile sees that it is gone
            finally:
                os.close(file)


def _locked(path: Path) -> int | None:
    """Open the file and lock it; None where that cannot be done."""
    if fcntl is None:
        return None
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:  # whoever writes next says it better
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.is_file() and os.path.samestat(os.fstat(file), path.stat()):
                os.ftruncate(file, 0)
                os.write(file, f"process {os.getpid()} on {socket.gethostname()}".encode())
                return file
        except BlockingIOError:
            time.sleep(SIGNING_SECONDS)  # until then the line may be that of a killed process
            holder = ""
            with suppress(OSError):
                holder = os.pread(file, 200, 0).decode(errors="replace")
            os.close(file)
            raise Held(
                f"{path.parent} is being trained by {holder or 'another process'}: wait for it, end it, or choose "
                "another folder"
            ) from None
        except OSError as reason:
            os.close(file)
            if reason.errno in (errno.ENOENT, errno.ESTALE):  # removed between two lines: once more
                continue
            with suppress(OSError):
                path.unlink()
            return None
        os.close(file)  # its holder has ended since and removed it
