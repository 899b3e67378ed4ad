"""What can go wrong, in words for people.

Services and adapters raise these; only the edge (``chalicelib/api/problems.py``) knows HTTP numbers.
A new error picks a kind below as its parent and inherits that kind's status.
"""

from __future__ import annotations

from collections.abc import Sequence


class AppError(Exception):
    """A failure with a stable ``code`` (snake_case) and a ``detail`` that is safe to show to the caller.

    ``detail`` says what happened and what to do now; it never holds a secret, a header, SQL or an address.
    """

    code = "error"

    def __init__(self, detail: str, *, code: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        if code is not None:
            self.code = code


class BadRequest(AppError):
    """The request cannot be read at all."""

    code = "bad_request"


class Unauthenticated(AppError):
    """No valid access token. Never says which check failed."""

    code = "unauthenticated"

    def __init__(self) -> None:
        super().__init__("Sign in and send your Supabase access token as 'Authorization: Bearer …'.")


class Forbidden(AppError):
    code = "forbidden"


class NotFound(AppError):
    """Missing, or somebody else's: one fact for the caller."""

    code = "not_found"


class MethodNotAllowed(AppError):
    code = "method_not_allowed"


class Conflict(AppError):
    code = "conflict"


class TooLarge(AppError):
    code = "too_large"


class UnsupportedMedia(AppError):
    code = "unsupported_media_type"


class Invalid(AppError):
    """Understood, but not acceptable. ``errors`` are pairs of (field, message)."""

    code = "invalid"

    def __init__(self, detail: str, errors: Sequence[tuple[str, str]] = (), *, code: str | None = None) -> None:
        super().__init__(detail, code=code)
        self.errors = tuple(errors)


class RateLimited(AppError):
    """Too many; ``retry_after`` is in whole seconds."""

    code = "rate_limited"

    def __init__(self, detail: str, retry_after: int, *, code: str | None = None) -> None:
        super().__init__(detail, code=code)
        self.retry_after = max(1, retry_after)


class Unavailable(AppError):
    """Something that we depend on is down; ``retry_after`` is in whole seconds."""

    code = "unavailable"

    def __init__(self, detail: str, retry_after: int = 5, *, code: str | None = None) -> None:
        super().__init__(detail, code=code)
        self.retry_after = max(1, retry_after)


class IntegrationNotFound(NotFound):
    code = "integration_not_found"

    def __init__(self) -> None:
        super().__init__("There is no such integration among yours.")


class IntegrationTypeNotFound(NotFound):
    code = "integration_type_not_found"

    def __init__(self) -> None:
        super().__init__("There is no such integration type. GET /integration-types lists them.")


class CredentialNotFound(NotFound):
    code = "credential_not_found"

    def __init__(self) -> None:
        super().__init__("This integration has no credential of that type.")


class NameTaken(Conflict):
    code = "name_taken"

    def __init__(self) -> None:
        super().__init__("You already have an integration with this name. Choose another name.")


class ChangedMeanwhile(Conflict):
    """Somebody (perhaps the caller, in another tab) changed the integration while we worked on it."""

    code = "changed_meanwhile"

    def __init__(self) -> None:
        super().__init__("The integration was changed while this request was at work. Load it again and repeat.")


class CredentialsBoundElsewhere(Conflict):
    """The destination changes, so the listed credentials must be typed anew (``api.md``)."""

    code = "credentials_bound_elsewhere"

    def __init__(self, credential_types: Sequence[str]) -> None:
        self.credential_types = tuple(credential_types)
        super().__init__(
            "This change sends the integration's credentials to another destination. "
            "Give these again in the same request: " + ", ".join(self.credential_types) + "."
        )


class IdempotencyKeyReused(Invalid):
    code = "idempotency_key_reused"

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key was used with another body. Use a new key for a new request.")


class SealError(AppError):
    """A sealed credential does not open. Carries nothing of the value, the key or the row."""

    code = "credential_unreadable"

    def __init__(self, detail: str = "A stored credential cannot be read. Save it again.") -> None:
        super().__init__(detail)


class StaleVersion(SealError):
    """An older ciphertext of the same credential was put back."""

    code = "credential_stale"


class KeyMissing(SealError):
    """The data key (or the key that wraps it) is not there any more."""

    code = "credential_key_missing"


class Blocked(AppError):
    """The guard on outbound connections refused an address. Never says which rule, nor what it resolved to."""

    code = "destination_blocked"

    def __init__(self, detail: str = "This address cannot be used here. Use a public https address.") -> None:
        super().__init__(detail)
