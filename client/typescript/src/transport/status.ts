/** Failed calls as errors of this package: one class for each gRPC status. */

import { fromBinary } from "@bufbuild/protobuf";
import * as errors from "../errors.js";
import { BadRequestSchema, RequestInfoSchema, RetryInfoSchema } from "../protocol/google/rpc/error_details_pb.js";

const CLASSES: Record<number, typeof errors.GroupconvError> = {
  1: errors.CancelledError,
  3: errors.InvalidArgumentError,
  4: errors.DeadlineExceededError,
  5: errors.NotFoundError,
  6: errors.AlreadyExistsError,
  7: errors.PermissionDeniedError,
  8: errors.ResourceExhaustedError,
  9: errors.FailedPreconditionError,
  10: errors.AbortedError,
  11: errors.OutOfRangeError,
  12: errors.UnimplementedError,
  13: errors.InternalError,
  14: errors.UnavailableError,
  15: errors.DataLossError,
  16: errors.UnauthenticatedError,
};

/** A detail of a status: a message of google.rpc and its type's name. */
export interface Detail {
  readonly type: string;
  readonly value: Uint8Array;
}

/**
 * The error of a status.
 *
 * @param code number of the gRPC status.
 * @param message the server's words.
 * @param details from grpc-status-details-bin; broken ones are left out.
 * @param requestId the server's id of the request.
 */
export function errorOf(
  code: number,
  message: string,
  details: readonly Detail[],
  requestId = "",
): errors.GroupconvError {
  const kind = CLASSES[code] ?? errors.GroupconvError;
  const hint = code === 16 ? "; give a token with the option token, or in GROUPCONV_TOKEN" : "";
  return new kind(`${message || "no message"}${hint}`, decoded(details, requestId));
}

function decoded(details: readonly Detail[], requestId: string): errors.ErrorDetails {
  let found: errors.ErrorDetails = { requestId };
  for (const { type, value } of details) {
    try {
      if (type === BadRequestSchema.typeName) {
        const { fieldViolations } = fromBinary(BadRequestSchema, value);
        found = { ...found, violations: fieldViolations.map(({ field, description }) => ({ field, description })) };
      } else if (type === RetryInfoSchema.typeName) {
        const { retryDelay } = fromBinary(RetryInfoSchema, value);
        if (retryDelay) found = { ...found, retryAfter: Number(retryDelay.seconds) + retryDelay.nanos / 1e9 };
      } else if (type === RequestInfoSchema.typeName && !requestId) {
        found = { ...found, requestId: fromBinary(RequestInfoSchema, value).requestId };
      }
    } catch {
      continue; // status and message say what happened
    }
  }
  return found;
}
