"""One writer per folder: the kernel's advisory lock on a file in it, which a killed process cannot leave behind."""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

NAME = ".lock"


@contextmanager
def hold(folder: str | os.PathLike) -> Iterator[None]:
    """Hold a folder for the length of a `with`; it is made where there is none.

    The lock is `flock`'s: it ends with the process, however that ends. Where there is none, on Windows and on some
    network drives, and in a folder that cannot be written to, nothing is held and nobody is refused.

    Raises:
        RuntimeError: when somebody holds it: names the folder, the process and its machine.
    """
    folder = Path(folder)
    path = folder / NAME
    file = _locked(path)
    try:
        yield
    finally:
        if file is not None:
            path.unlink(missing_ok=True)  # while it is held: whoever opened it meanwhile sees that it is gone
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
            holder = path.read_text() if path.is_file() else ""
            os.close(file)
            raise RuntimeError(
                f"{path.parent} is being trained by {holder or 'another process'}: wait for it, end it, or choose "
                "another folder"
            ) from None
        except OSError as reason:
            os.close(file)
            if reason.errno in (errno.ENOENT, errno.ESTALE):  # removed between two lines: once more
                continue
            path.unlink(missing_ok=True)
            return None
        os.close(file)  # its holder has ended since and removed it
