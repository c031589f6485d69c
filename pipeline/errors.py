"""Every error this project raises on purpose, grouped by what the caller should do.

::

    PipelineError
    ├── InvalidInputError (ValueError)     fix what you passed in
    │   ├── RecipeError                      the recipe does not validate
    │   ├── UnsafeNameError                  a name that could leave its folder
    │   ├── ShapeMismatchError               arrays that do not fit each other
    │   ├── ManifestError                    a manifest or split file that cannot be used
    │   └── QueryError                       an SQL condition that cannot be run, or is not allowed to
    ├── NotFoundError (LookupError)        name something that exists
    │   ├── StoreNotFoundError
    │   └── NoDataError                      the selection, folder or split is empty
    ├── ConflictError                      the store already holds something else
    │   ├── FingerprintMismatchError         other weights, preprocessing, crops, decoder or dtype
    │   ├── VideoChangedError                a known video id came back with other bytes
    │   ├── AlreadyExistsError
    │   ├── ClaimedError                     another worker is at it right now
    │   └── SnapshotChangedError             the bytes this reader pinned have been replaced; reopen
    ├── FormatError                        stored bytes are wrong or from another version
    │   ├── CorruptDataError                 checksum, index or structure does not hold
    │   │   └── WrongVideoError                rows of other videos, or of videos that the catalogue lacks
    │   ├── SchemaVersionError               written by a newer version of this project
    │   └── WeightsError                     a weights file whose hash, keys or shapes do not fit
    ├── VideoError                         this one video failed; becomes a row with a status
    ├── SetupError                         change the installation or the environment
    │   ├── MissingDependencyError
    │   ├── CredentialsError
    │   ├── UnsafeStorageError               the object store ignores conditional puts
    │   └── ForkError                        a store used after fork()
    ├── TrainingError                      the optimisation went wrong (non-finite loss)
    └── TransientError                     try again
        ├── StorageError                     I/O failed
        ├── ResourceError                    memory, threads, processes or open files used up
        │   └── OutOfMemoryError               the device's memory, for the smallest batch
        └── WorkerLostError

Messages say what was expected, what was found, and what to do next.
"""

from __future__ import annotations

from collections.abc import Sequence


class PipelineError(Exception):
    """Root of the tree."""


class InvalidInputError(PipelineError, ValueError):
    """The caller passed something that cannot work; fix it and call again."""


class RecipeError(InvalidInputError):
    """A recipe that cannot be read or does not validate."""


class UnsafeNameError(InvalidInputError):
    """A name with characters that could leave its folder or hide a file."""


class ShapeMismatchError(InvalidInputError):
    """Arrays whose shapes or dtypes do not fit; the message shows both."""


class ManifestError(InvalidInputError):
    """A video manifest, label file or split file that cannot be used."""


class QueryError(InvalidInputError):
    """An SQL text that cannot be run, or asks for something a query may not do."""


class NotFoundError(PipelineError, LookupError):
    """The named thing does not exist; the message lists what does."""


class StoreNotFoundError(NotFoundError):
    """No feature store at this address."""


class NoDataError(NotFoundError):
    """Nothing to work on: an empty folder, selection or split."""


class ConflictError(PipelineError):
    """The store already holds something that differs from what was asked for."""


class FingerprintMismatchError(ConflictError):
    """Features made another way; mixing them would corrupt every number.

    Attributes
    ----------
    fields : tuple of str
        Dotted names of the fingerprint fields that differ.
    """

    def __init__(self, message: str, fields: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.fields = tuple(fields)


class VideoChangedError(ConflictError):
    """A video id already in the catalogue came back with other bytes."""


class AlreadyExistsError(ConflictError):
    """Exclusive creation found the name taken."""


class ClaimedError(ConflictError):
    """Another live worker holds the claim on this shard."""


class SnapshotChangedError(ConflictError):
    """The bytes that a reader pinned were replaced since; open the store again."""


class FormatError(PipelineError):
    """Stored bytes are not what they should be."""


class CorruptDataError(FormatError):
    """A checksum, index or structure does not hold; the value is never returned."""


class WrongVideoError(CorruptDataError):
    """Stored rows are of other videos than the catalogue's, or of videos that it lacks; nothing is returned."""


class SchemaVersionError(FormatError):
    """The store was written by a newer version of this project."""


class WeightsError(FormatError):
    """A weights file whose hash, keys or shapes are not what the recipe says."""


class VideoError(PipelineError):
    """One video failed. Caught by the stage and kept as a row with a status.

    Attributes
    ----------
    status : str
        One of :class:`pipeline.status.VideoStatus`.
    """

    def __init__(self, message: str, status: str = "unreadable") -> None:
        super().__init__(message)
        self.status = status


class SetupError(PipelineError):
    """The installation or the environment must change first."""


class MissingDependencyError(SetupError):
    """An optional package is needed for what was asked; the message names the extra."""


class CredentialsError(SetupError):
    """An object store refused the credentials, or none were found."""


class UnsafeStorageError(SetupError):
    """The storage does not honour exclusive creation, so commits could be lost."""


class ForkError(SetupError):
    """The store was used in a forked child; start workers with the spawn method."""


class TrainingError(PipelineError):
    """Training stopped because the loss or a gradient became non-finite."""


class TransientError(PipelineError):
    """Environmental and often temporary; trying again is reasonable."""


class StorageError(TransientError):
    """Reading or writing storage failed."""


class ResourceError(TransientError):
    """Memory, threads, processes or open files of this machine are used up."""


class OutOfMemoryError(ResourceError):
    """The device has no memory left even for the smallest batch."""


class WorkerLostError(TransientError):
    """A worker process died while it held work."""


EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_BAD_INPUT = 3
EXIT_PARTIAL = 4
EXIT_INTERRUPTED = 130


def exit_code(error: BaseException) -> int:
    """Map an error to the exit code of the ``scale`` command.

    Parameters
    ----------
    error : BaseException
        What ended the command.

    Returns
    -------
    int
        3 for bad input (the caller must change something), 130 for an
        interrupt, 1 for everything else. 0, 2 and 4 never come from errors
        that reach here.
    """
    if isinstance(error, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    if isinstance(error, InvalidInputError | NotFoundError | ConflictError | FormatError | SetupError):
        return EXIT_BAD_INPUT
    return EXIT_FAILURE
