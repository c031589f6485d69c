"""The error tree and what the command line makes of it."""

import inspect

import pytest

from pipeline import errors


def _classes():
    return [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, errors.PipelineError)]


def test_the_tree_drawn_in_the_docstring_is_the_tree():
    drawn = errors.__doc__ or ""
    for cls in _classes():
        assert cls.__name__ in drawn


def test_every_error_falls_under_one_thing_the_caller_should_do():
    groups = (
        errors.InvalidInputError,
        errors.NotFoundError,
        errors.ConflictError,
        errors.FormatError,
        errors.VideoError,
        errors.SetupError,
        errors.TrainingError,
        errors.TransientError,
    )
    for cls in _classes():
        if cls is not errors.PipelineError:
            assert sum(issubclass(cls, group) for group in groups) == 1, cls


def test_builtin_parents_let_plain_handlers_work():
    assert issubclass(errors.RecipeError, ValueError)
    assert issubclass(errors.StoreNotFoundError, LookupError)
    assert str(errors.NotFoundError("expected a, found b")) == "expected a, found b"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.RecipeError("x"), 3),
        (errors.StoreNotFoundError("x"), 3),
        (errors.FingerprintMismatchError("x", ["a"]), 3),
        (errors.CorruptDataError("x"), 3),
        (errors.MissingDependencyError("x"), 3),
        (errors.StorageError("x"), 1),
        (errors.TrainingError("x"), 1),
        (RuntimeError("x"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_codes(error, code):
    assert errors.exit_code(error) == code
