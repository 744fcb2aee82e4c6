/** The error that a function throws; fails if it throws none. */
export function caught(call: () => unknown): unknown {
  try {
    call();
  } catch (error) {
    return error;
  }
  throw new Error("nothing was thrown");
}

/** The error that a promise rejects with; fails if it resolves. */
export async function rejected(promise: Promise<unknown>): Promise<unknown> {
  return promise.then(
    () => Promise.reject(new Error("nothing was thrown")),
    (error: unknown) => error,
  );
}
