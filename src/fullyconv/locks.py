"""Locks on open files, which the system frees when whoever holds one is killed."""

import errno
import sys

__all__ = ["locked"]

if sys.platform == "win32":
    import msvcrt

    def locked(descriptor: int) -> bool:
        """Lock an open file if nobody else holds it; say whether it is ours now."""
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    _NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
    """What file systems answer that have no locks: there, nothing is kept apart."""

    def locked(descriptor: int) -> bool:
        """Lock an open file if nobody else holds it; say whether it is ours now."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        return True
