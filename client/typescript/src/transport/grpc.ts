/** Calls over HTTP/2 with @grpc/grpc-js, in Node. */

import { readFileSync } from "node:fs";
import { fromBinary, type DescMessage, type DescMethod, type MessageShape } from "@bufbuild/protobuf";
import { Client, credentials, Metadata, type ChannelCredentials, type ServiceError } from "@grpc/grpc-js";
import { InvalidArgumentError } from "../errors.js";
import { StatusSchema } from "../protocol/google/rpc/status_pb.js";
import { Words } from "../text.js";
import { serialize } from "../wire/frame.js";
import { errorOf, type Detail } from "./status.js";
import type { CallContext, Duplex, Transport } from "./transport.js";

/** Seconds without data during a call before a ping; the server has half of that to answer. */
const KEEPALIVE = 20;

/** PEM, or the path of a file that holds it. */
export type Pem = string | Uint8Array;

/** How the connection is encrypted. */
export interface TlsOptions {
  /** Certificates to trust in place of the system's. */
  rootCertificates?: Pem;
  /** This client's certificate and its key, for mutual TLS. */
  clientCertificate?: Pem;
  clientKey?: Pem;
  /** Name in the server's certificate, if it is not the target's host. */
  serverName?: string;
}

type Call = { cancel(): void };

/** A connection to one server; it is made at the first call. */
export class GrpcTransport implements Transport {
  readonly #client: Client;

  /**
   * @param tls undefined for a connection without encryption.
   * @throws InvalidArgumentError if a certificate is not PEM, or comes without its key.
   */
  constructor(target: string, tls: TlsOptions | undefined, maxMessageBytes: number) {
    const name = tls?.serverName;
    this.#client = new Client(target, tls ? secure(tls) : credentials.createInsecure(), {
      "grpc.max_send_message_length": maxMessageBytes,
      "grpc.max_receive_message_length": maxMessageBytes,
      "grpc.max_reconnect_backoff_ms": 2000,
      "grpc.keepalive_time_ms": KEEPALIVE * 1000,
      "grpc.keepalive_timeout_ms": KEEPALIVE * 500,
      "grpc-node.flow_control_window": 16 * 2 ** 20, // holds a message
      "grpc.enable_retries": 0, // `calls.ts` has them, for both transports
      ...(name === undefined ? {} : { "grpc.ssl_target_name_override": name, "grpc.default_authority": name }),
    });
  }

  unary: Transport["unary"] = (method, request, context) =>
    this.#answer(method, context, (path, metadata, options, done) =>
      this.#client.makeUnaryRequest(
        path,
        writer(method.input),
        reader(method.output),
        request,
        metadata,
        options,
        done,
      ),
    );

  upload: Transport["upload"] = (method, requests, context) =>
    this.#answer(method, context, (path, metadata, options, done) => {
      const call = this.#client.makeClientStreamRequest(
        path,
        writer(method.input),
        reader(method.output),
        metadata,
        options,
        done,
      );
      void (async () => {
        for (const request of requests) await written(call, request);
        call.end();
      })().catch(() => call.cancel()); // the server ended the call: its status is reported
      return call;
    });

  duplex: Transport["duplex"] = <I extends DescMessage, O extends DescMessage>(
    method: DescMethod & { input: I; output: O },
    context: CallContext,
  ): Duplex<I, O> => {
    const [metadata, options] = settings(context);
    const call = this.#client.makeBidiStreamRequest(
      pathOf(method),
      writer(method.input),
      reader(method.output),
      metadata,
      options,
    );
    const release = onAbort(context.signal, call);
    call.on("close", release);
    call.on("error", release); // read by `answers`; without a listener a late error would end the process
    const answers = async function* (): AsyncGenerator<MessageShape<O>> {
      try {
        for await (const answer of call) yield answer as MessageShape<O>;
      } catch (error) {
        throw fromServiceError(error as ServiceError);
      }
    };
    return {
      send: (message) => written(call, message),
      end: () => call.end(),
      cancel: () => call.cancel(),
      answers: answers(),
    };
  };

  close(): void {
    this.#client.close();
  }

  #answer<O>(
    method: DescMethod,
    context: CallContext,
    start: (
      path: string,
      metadata: Metadata,
      options: { deadline?: number },
      done: (error: ServiceError | null, answer?: O) => void,
    ) => Call,
  ): Promise<O> {
    return new Promise((resolve, reject) => {
      const [metadata, options] = settings(context);
      const call = start(pathOf(method), metadata, options, (error, answer) => {
        release();
        if (error) reject(fromServiceError(error));
        else resolve(answer as O);
      });
      const release = onAbort(context.signal, call);
    });
  }
}

function pathOf(method: DescMethod): string {
  return `/${method.parent.typeName}/${method.name}`;
}

function writer<D extends DescMessage>(schema: D) {
  return (message: MessageShape<D>): Buffer => {
    const bytes = serialize(schema, message);
    return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  };
}

function reader<D extends DescMessage>(schema: D) {
  return (bytes: Buffer): MessageShape<D> => fromBinary(schema, bytes);
}

function settings(context: CallContext): [Metadata, { deadline?: number }] {
  const metadata = new Metadata();
  for (const [name, value] of Object.entries(context.headers)) metadata.set(name, value);
  return [metadata, context.deadline === undefined ? {} : { deadline: context.deadline }];
}

/** Cancels a call when its signal aborts. Returns what ends the watch. */
function onAbort(signal: AbortSignal | undefined, call: Call): () => void {
  if (!signal) return () => undefined;
  const cancel = () => call.cancel();
  if (signal.aborted) cancel();
  signal.addEventListener("abort", cancel, { once: true });
  return () => signal.removeEventListener("abort", cancel);
}

/** Writes a message; resolves once the stream takes another one. */
function written<M>(
  call: { write(message: M, done: (error?: Error | null) => void): boolean },
  message: M,
): Promise<void> {
  return new Promise((resolve, reject) => call.write(message, (error) => (error ? reject(error) : resolve())));
}

function fromServiceError(error: ServiceError): Error {
  if (typeof error.code !== "number") return error;
  const [id] = error.metadata?.get("x-request-id") ?? [];
  return errorOf(error.code, error.details, detailsOf(error.metadata), typeof id === "string" ? id : "");
}

function detailsOf(metadata: Metadata | undefined): Detail[] {
  const [status] = metadata?.get("grpc-status-details-bin") ?? [];
  if (!(status instanceof Uint8Array)) return [];
  try {
    return fromBinary(StatusSchema, status).details.map(({ typeUrl, value }) => ({
      type: typeUrl.split("/").at(-1)!,
      value,
    }));
  } catch {
    return []; // status and message say what happened
  }
}

function secure(tls: TlsOptions): ChannelCredentials {
  if ((tls.clientCertificate === undefined) !== (tls.clientKey === undefined)) {
    throw InvalidArgumentError.of(
      "tls.clientCertificate",
      "clientCertificate and clientKey together",
      new Words("only one of them"),
    );
  }
  const read = (name: keyof TlsOptions & string, value: Pem | undefined) =>
    value === undefined ? null : pem(`tls.${name}`, value);
  return credentials.createSsl(
    read("rootCertificates", tls.rootCertificates),
    read("clientKey", tls.clientKey),
    read("clientCertificate", tls.clientCertificate),
  );
}

function pem(field: string, value: Pem): Buffer {
  const expected = "PEM (-----BEGIN …), or the path of a PEM file";
  const given =
    typeof value === "string" && !value.includes("-----BEGIN ") ? read(value, field, expected) : Buffer.from(value);
  if (!given.includes("-----BEGIN ")) {
    throw InvalidArgumentError.of(field, expected, new Words(`${given.length} bytes of something else`));
  }
  return given;
}

function read(path: string, field: string, expected: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    throw InvalidArgumentError.of(field, expected, new Words((error as Error).message));
  }
}
