/** Streams: feature maps of any size, computed in bands while they arrive. */

import { CancelledError, UnavailableError } from "../errors.js";
import { StreamService } from "../protocol/groupconv/v1/stream_pb.js";
import { DTYPES, type TypedArray } from "../tensors/dtypes.js";
import { sizeOf, Tensor } from "../tensors/tensor.js";
import { sleep, type CallLimits, type Calls } from "../transport/calls.js";
import type { CallContext, Duplex } from "../transport/transport.js";
import { Attempts } from "./attempts.js";
import type { Band, Transfer } from "./transfer.js";

/**
 * The output of a streaming convolution, band by band. Rows are sent only as fast as bands are read. A stream whose
 * connection is lost connects again and continues after the last complete band. It can be read once.
 *
 * @example
 * for await (const { start, rows } of client.streamConv2d(image, kernel, { padding: 4 })) write(start, rows);
 */
export class BandStream implements AsyncIterable<Band> {
  constructor(
    private readonly calls: Calls,
    private readonly transfer: Transfer,
    private readonly limits: CallLimits,
    private readonly unbatched: boolean,
  ) {}

  /** (N, M, H', …), or (M, H', …) if the input had no batch axis. */
  get shape(): readonly number[] {
    return this.unbatched ? this.transfer.shape.slice(1) : this.transfer.shape;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Band, void, undefined> {
    const context = this.calls.context({ timeout: null, ...this.limits });
    const attempts = new Attempts(context.deadline);
    try {
      while (!(yield* this.#attempted(context, attempts)));
    } catch (error) {
      throw this.calls.explained(error, this.limits);
    } finally {
      this.transfer.close();
    }
  }

  /** All bands together, as the whole output. */
  async tensor(): Promise<Tensor> {
    const shape = this.transfer.shape;
    const [, channels, height, ...rest] = shape as [number, number, number];
    const line = sizeOf(rest);
    let whole: Tensor | undefined;
    for await (const { start, stop, rows } of this) {
      whole ??= new Tensor(new DTYPES[rows.dtype].array(sizeOf(shape)), shape, rows.dtype);
      const [from, to] = [rows.data, whole.data] as [Copyable, Copyable];
      for (let row = start; row < stop; row++) {
        const [sample, h] = [Math.floor(row / height), row % height];
        for (let channel = 0; channel < channels; channel++) {
          const at = ((row - start) * channels + channel) * line;
          to.set(from.subarray(at, at + line), ((sample * channels + channel) * height + h) * line);
        }
      }
    }
    return (whole ?? Tensor.zeros(shape, this.transfer.dtype)).reshape(this.shape);
  }

  /** Runs the stream over one connection. Returns whether it is complete; after a lost connection it waits. */
  async *#attempted(context: CallContext, attempts: Attempts): AsyncGenerator<Band, boolean, undefined> {
    try {
      yield* this.#attempt(context);
      this.transfer.ended();
      return true;
    } catch (error) {
      const lost = error instanceof UnavailableError;
      const pause = lost ? attempts.pause(this.transfer.done, this.transfer.started) : undefined;
      if (pause === undefined) throw error;
      await sleep(pause, this.limits.signal);
      return false;
    }
  }

  /** Sends rows while bands are read. */
  async *#attempt(context: CallContext): AsyncGenerator<Band, void, undefined> {
    const call = this.calls.duplex(StreamService.method.convolveStream, context);
    const answers = call.answers[Symbol.asyncIterator]();
    let broken: { error: unknown } | undefined;
    try {
      const first = answers.next(); // listens before anything can fail
      first.catch(() => undefined); // read below
      await call.send(this.transfer.header()).catch(() => undefined); // the answer says why
      const answer = await first;
      if (answer.done) throw new UnavailableError("the server ended the stream");
      const row = this.transfer.accepted(answer.value);
      this.calls.connected();
      void this.#sendRows(call, row).catch((error: unknown) => {
        broken = { error };
        call.cancel();
      });
      for (let next = await answers.next(); !next.done; next = await answers.next()) {
        const band = this.transfer.take(next.value);
        if (band) yield band;
      }
    } catch (error) {
      throw broken && error instanceof CancelledError ? broken.error : error;
    } finally {
      call.cancel();
    }
  }

  /** Sends rows until the last, or until the call has ended. Rejects with an error of the source. */
  async #sendRows(call: Duplex<typeof StreamService.method.convolveStream.input, never>, row: number): Promise<void> {
    for await (const message of this.transfer.messages(row)) {
      try {
        await call.send(message);
      } catch {
        return; // the call has ended: its answer says why
      }
    }
    call.end();
  }
}

type Copyable = Exclude<TypedArray, BigInt64Array | BigUint64Array>;
