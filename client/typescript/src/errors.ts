/** One class of error for each gRPC status, as in the Python client. */

import { shown } from "./text.js";

/** A field that the server refused, from google.rpc.BadRequest. */
export interface Violation {
  /** The path, such as `steps[1].spec.stride[0]`. */
  readonly field: string;
  /** The field, what was expected, and what came. */
  readonly description: string;
}

/** What the server says beside status and message. */
export interface ErrorDetails {
  readonly requestId?: string;
  readonly retryAfter?: number | undefined;
  readonly violations?: readonly Violation[];
}

/** Base of every error of this package. */
export class GroupconvError extends Error {
  /** Name of the gRPC status code. */
  readonly status: string = "UNKNOWN";
  /** The server's id of the request, which is also in its log; empty if there was no request. */
  readonly requestId: string;
  /** Seconds after which the server suggests another attempt, or undefined. */
  readonly retryAfter: number | undefined;
  /** The fields at fault; empty if the server named none. */
  readonly violations: readonly Violation[];

  constructor(message: string, details: ErrorDetails = {}) {
    super(message);
    this.name = new.target.name;
    this.requestId = details.requestId ?? "";
    this.retryAfter = details.retryAfter;
    this.violations = details.violations ?? [];
  }
}

/** An argument is invalid: found before anything was sent, or by the server. */
export class InvalidArgumentError extends GroupconvError {
  override readonly status: string = "INVALID_ARGUMENT";
  /** The argument, as a path such as `steps[1].spec.stride`; empty if the server named none. */
  readonly field: string = "";
  /** What would be valid, and what came; only of an error that this client found. */
  readonly expected: string = "";
  readonly got: unknown = undefined;

  constructor(
    message: string,
    details: ErrorDetails = {},
    parts: { field?: string; expected?: string; got?: unknown } = {},
  ) {
    super(message, details);
    this.field = parts.field ?? this.violations[0]?.field ?? "";
    this.expected = parts.expected ?? "";
    this.got = parts.got;
  }

  /** The error of a field: `groups: expected a divisor of 96 input channels, got 5`. */
  static of(field: string, expected: string, got: unknown): InvalidArgumentError {
    const message = `${field}: expected ${expected}, got ${shown(got)}`;
    return new InvalidArgumentError(
      message,
      { violations: [{ field, description: message }] },
      { field, expected, got },
    );
  }

  /** The same error with a longer path: `stride` within `steps[1].spec` is `steps[1].spec.stride`. */
  within(path: string): InvalidArgumentError {
    return InvalidArgumentError.of(`${path}.${this.field}`, this.expected, this.got);
  }
}

/** A limit of the server on memory, queue length, rate or message size is reached. */
export class ResourceExhaustedError extends GroupconvError {
  override readonly status: string = "RESOURCE_EXHAUSTED";
}

/** Something named in the request does not exist. */
export class NotFoundError extends GroupconvError {
  override readonly status: string = "NOT_FOUND";
}

/** Something with this name exists already. */
export class AlreadyExistsError extends GroupconvError {
  override readonly status: string = "ALREADY_EXISTS";
}

/** The system is not in the state that the request needs. */
export class FailedPreconditionError extends GroupconvError {
  override readonly status: string = "FAILED_PRECONDITION";
}

/** The server or all its workers are away. Another attempt later may succeed. */
export class UnavailableError extends GroupconvError {
  override readonly status: string = "UNAVAILABLE";
}

/** No connection to the server was ever made. The message says how to mend it. */
export class ConnectError extends UnavailableError {}

/** The answer did not arrive within the caller's timeout. */
export class DeadlineExceededError extends GroupconvError {
  override readonly status: string = "DEADLINE_EXCEEDED";
}

/** The caller cancelled the call. */
export class CancelledError extends GroupconvError {
  override readonly status: string = "CANCELLED";
}

/** A concurrent operation interfered. */
export class AbortedError extends GroupconvError {
  override readonly status: string = "ABORTED";
}

/** An index is past the end. */
export class OutOfRangeError extends GroupconvError {
  override readonly status: string = "OUT_OF_RANGE";
}

/** Data is corrupt, or an answer cannot be decoded. */
export class DataLossError extends GroupconvError {
  override readonly status: string = "DATA_LOSS";
}

/** The call has no valid credentials. */
export class UnauthenticatedError extends GroupconvError {
  override readonly status: string = "UNAUTHENTICATED";
}

/** The credentials do not allow this call. */
export class PermissionDeniedError extends GroupconvError {
  override readonly status: string = "PERMISSION_DENIED";
}

/** The server, or this transport, does not have this method. */
export class UnimplementedError extends GroupconvError {
  override readonly status: string = "UNIMPLEMENTED";
}

/** A defect of the server or a driver. The server's log has the details. */
export class InternalError extends GroupconvError {
  override readonly status: string = "INTERNAL";
}
