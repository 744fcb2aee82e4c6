/** Calls of a client: deadlines, tokens, retries, and errors that say what to do. */

import type {
  DescMessage,
  DescMethod,
  DescMethodBiDiStreaming,
  DescMethodClientStreaming,
  DescMethodUnary,
  MessageShape,
} from "@bufbuild/protobuf";
import {
  CancelledError,
  ConnectError,
  DeadlineExceededError,
  GroupconvError,
  InvalidArgumentError,
  UnavailableError,
} from "../errors.js";
import { Words } from "../text.js";
import type { CallContext, Duplex, Transport } from "./transport.js";

/** How a call may be limited. */
export interface CallLimits {
  /** Seconds that the call may take, in place of the client's; null has no limit. */
  timeout?: number | null;
  /** Cancels the call: it ends with a `CancelledError`, and so does its computation on the server. */
  signal?: AbortSignal;
}

const FIRST_PAUSE = 100;
const LONGEST_PAUSE = 2000;
/** Methods that are sent again, as in the Python client: they change nothing, and an unavailable server has computed nothing. */
const REPEATABLE = new Set(["Convolve", "PlanConvolution", "GetCluster", "GetLayer", "ListLayers"]);

/** The calls of one client. */
export class Calls {
  #connected = false; // whether the server has answered
  #closed = false;

  /**
   * @param target for errors.
   * @param timeout seconds that a call may take, unless the call has its own; null has no limit.
   * @param retries how often a call is sent again that an unavailable server did not take.
   */
  constructor(
    readonly target: string,
    private readonly transport: Transport,
    private readonly headers: Readonly<Record<string, string>>,
    readonly timeout: number | null,
    private readonly retries: number,
  ) {
    checkTimeout(timeout);
    if (!Number.isInteger(retries) || retries < 0)
      throw InvalidArgumentError.of("retries", "an integer of at least 0", retries);
  }

  /** Sends one message and returns the answer. */
  async unary<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageShape<I>,
    limits: CallLimits = {},
  ): Promise<MessageShape<O>> {
    const context = this.context(limits);
    return this.#settled(limits, async () => {
      for (let attempt = 0; ; attempt++) {
        try {
          return await this.transport.unary(method, request, context);
        } catch (error) {
          if (!this.#again(method, error, attempt)) throw error;
          const pause = Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** attempt) * (0.8 + 0.4 * Math.random());
          if (context.deadline !== undefined && Date.now() + pause > context.deadline) throw error;
          await sleep(pause, limits.signal);
        }
      }
    });
  }

  /** Sends many messages and returns the one answer. */
  async upload<I extends DescMessage, O extends DescMessage>(
    method: DescMethodClientStreaming<I, O>,
    requests: Iterable<MessageShape<I>>,
    limits: CallLimits = {},
  ): Promise<MessageShape<O>> {
    return this.#settled(limits, () => this.transport.upload(method, requests, this.context(limits)));
  }

  /** Opens a stream; its failures go through `explained`. */
  duplex<I extends DescMessage, O extends DescMessage>(
    method: DescMethodBiDiStreaming<I, O>,
    context: CallContext,
  ): Duplex<I, O> {
    return this.transport.duplex(method, context);
  }

  /** Deadline, signal and metadata of a call. */
  context(limits: CallLimits): CallContext {
    if (this.#closed) throw InvalidArgumentError.of("client", "an open client", new Words("a closed one"));
    const timeout = limits.timeout === undefined ? this.timeout : limits.timeout;
    checkTimeout(timeout);
    const deadline = timeout === null ? undefined : Date.now() + timeout * 1000;
    return { deadline, signal: limits.signal, headers: this.headers };
  }

  /** Records that the server has answered. */
  connected(): void {
    this.#connected = true;
  }

  /** The error of a call, with advice if there was never a connection, and the caller's reason if it was cancelled. */
  explained(error: unknown, limits: CallLimits): unknown {
    if (!(error instanceof GroupconvError)) return error;
    if (limits.signal?.aborted)
      return Object.assign(new CancelledError("the caller cancelled the call"), {
        cause: limits.signal.reason as unknown,
      });
    if (error instanceof DeadlineExceededError && !error.requestId) {
      return new DeadlineExceededError(`no answer within the timeout (timeout): ${error.message}`);
    }
    if (this.#connected || error.requestId || !(error instanceof UnavailableError)) return error;
    const cure = "start one with `groupconv serve`, or give another address";
    return new ConnectError(`${this.target}: no server accepts connections there (${error.message}); ${cure}`);
  }

  close(): void {
    this.#closed = true;
    this.transport.close();
  }

  async #settled<T>(limits: CallLimits, call: () => Promise<T>): Promise<T> {
    try {
      const answer = await call();
      this.#connected = true;
      return answer;
    } catch (error) {
      throw this.explained(error, limits);
    }
  }

  #again(method: DescMethod, error: unknown, attempt: number): boolean {
    return error instanceof UnavailableError && attempt < this.retries && REPEATABLE.has(method.name);
  }
}

/** @throws InvalidArgumentError if a timeout is neither a number of seconds nor null. */
function checkTimeout(timeout: number | null): void {
  if (timeout !== null && (typeof timeout !== "number" || Number.isNaN(timeout))) {
    throw InvalidArgumentError.of("timeout", "a number of seconds, or null", timeout);
  }
}

/** Waits; ends early with a `CancelledError` when the signal aborts. */
export function sleep(milliseconds: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const cancel = () => {
      clearTimeout(timer);
      reject(new CancelledError("the caller cancelled the call"));
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", cancel);
      resolve();
    }, milliseconds);
    if (signal?.aborted) cancel();
    else signal?.addEventListener("abort", cancel, { once: true });
  });
}
