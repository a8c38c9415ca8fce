"""Which warnings a test expects, where Keras gives others of its own beside."""

import contextlib
import re
import warnings


@contextlib.contextmanager
def telling(message):
    """Collects the UserWarnings of a block; one at least must match, and others are handed on."""
    told = []
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        yield told
    told += [own for own in found if own.category is UserWarning]
    assert any(re.search(message, str(own.message)) for own in told), [str(own.message) for own in told]
    for own in told:
        if not re.search(message, str(own.message)):
            warnings.warn_explicit(own.message, own.category, own.filename, own.lineno)
