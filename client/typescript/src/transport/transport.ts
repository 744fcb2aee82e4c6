/** What a client needs of a transport. There are two: `grpc.ts` for Node and `web.ts` for browsers. */

import type {
  DescMessage,
  DescMethodBiDiStreaming,
  DescMethodClientStreaming,
  DescMethodUnary,
  MessageShape,
} from "@bufbuild/protobuf";

/** How one call is made. */
export interface CallContext {
  /** When the call ends, in milliseconds of `Date.now()`; undefined for never. */
  readonly deadline: number | undefined;
  /** Cancels the call. */
  readonly signal: AbortSignal | undefined;
  /** Metadata, such as the token. */
  readonly headers: Readonly<Record<string, string>>;
}

/** Messages in both directions. */
export interface Duplex<I extends DescMessage, O extends DescMessage> {
  /** Sends a message. Resolves when the transport can take another one. */
  send(message: MessageShape<I>): Promise<void>;
  /** Says that no more messages follow. */
  end(): void;
  /** The server's messages; reading them lets the server send more. */
  readonly answers: AsyncIterable<MessageShape<O>>;
  /** Ends the call. */
  cancel(): void;
}

/** Calls to one server. Failures are `GroupconvError`s. */
export interface Transport {
  /** One message there, one back. */
  unary<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageShape<I>,
    context: CallContext,
  ): Promise<MessageShape<O>>;

  /** Many messages there, one back. */
  upload<I extends DescMessage, O extends DescMessage>(
    method: DescMethodClientStreaming<I, O>,
    requests: Iterable<MessageShape<I>>,
    context: CallContext,
  ): Promise<MessageShape<O>>;

  /** Messages in both directions at once. */
  duplex<I extends DescMessage, O extends DescMessage>(
    method: DescMethodBiDiStreaming<I, O>,
    context: CallContext,
  ): Duplex<I, O>;

  /** Closes the connection. */
  close(): void;
}
