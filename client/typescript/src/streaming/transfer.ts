/**
 * A streaming convolution without its transport: the messages to send, and what answers mean. It outlives its connections:
 * each attempt continues after the last complete band.
 */

import { create } from "@bufbuild/protobuf";
import type { ReadyStep } from "../convolution/arguments.js";
import { geometries } from "../convolution/steps.js";
import { DataLossError } from "../errors.js";
import type { StreamOptions } from "../options.js";
import {
  ConvolveStreamRequestSchema,
  StreamHeaderSchema,
  type ConvolveStreamRequest,
  type ConvolveStreamResponse,
  type StreamBand,
} from "../protocol/groupconv/v1/stream_pb.js";
import { DTYPES, itemSize, type DType } from "../tensors/dtypes.js";
import { sizeOf, Tensor } from "../tensors/tensor.js";
import { tuple } from "../text.js";
import { CHUNK_BYTES, chunksOf } from "../wire/layers.js";
import { stepsToWire } from "../wire/requests.js";
import { typeFromWire, typeToWire } from "../wire/tensors.js";
import type { Rows } from "./rows.js";

/** Output rows that were computed at once. */
export interface Band {
  /** Its first output row: row n·H' + h is row h of sample n. */
  readonly start: number;
  /** One past its last. */
  readonly stop: number;
  /** (rows, M, …): each row with all its channels. */
  readonly rows: Tensor;
}

export class Transfer {
  /** Output rows that have arrived. */
  done = 0;
  /** Whether a server has accepted the stream. */
  started = false;
  /** (N, M, H', …) of the whole output. */
  readonly shape: readonly number[];
  /** Of the output, once a server has accepted the stream. */
  dtype: DType = "float32";
  #bandRows: number;
  #band: StreamBand | undefined;
  #bytes = new Uint8Array();
  #filled = 0;

  /** @throws InvalidArgumentError if the shapes do not fit. */
  constructor(
    private readonly rows: Rows,
    private readonly steps: readonly ReadyStep[],
    private readonly options: StreamOptions,
  ) {
    const [specs, kernels] = [steps.map((s) => s.spec), steps.map((s) => s.kernel.shape)];
    this.shape = geometries(specs, rows.shape, kernels).at(-1)!.outputShape;
    this.#bandRows = options.bandRows ?? 0;
  }

  /** The first message of an attempt, which continues where the last one ended. */
  header(): ConvolveStreamRequest {
    this.#band = undefined;
    const value = create(StreamHeaderSchema, {
      input: typeToWire(this.rows.dtype, this.rows.shape),
      steps: stepsToWire(this.steps),
      allowReordering: this.options.allowReordering ?? false,
      firstOutputRow: BigInt(this.done),
      bandRows: BigInt(this.#bandRows),
    });
    return create(ConvolveStreamRequestSchema, { message: { case: "header", value } });
  }

  /**
   * Takes the server's first answer.
   *
   * @returns the first input row to send.
   */
  accepted({ message }: ConvolveStreamResponse): number {
    if (message.case !== "accepted" || !message.value.output) {
      throw new DataLossError("the server sent a message before it accepted the stream");
    }
    const { dtype, shape } = typeFromWire(message.value.output, "output");
    if (tuple(shape) !== tuple(this.shape)) {
      throw new DataLossError(`the server accepted another stream than this: its output has shape ${tuple(shape)}`);
    }
    this.dtype = dtype;
    this.#bandRows = Number(message.value.bandRows); // a resumed stream uses the same bands
    this.started = true;
    return Number(message.value.firstInputRow);
  }

  /** The messages from input row `row` to the last. */
  async *messages(row: number): AsyncGenerator<ConvolveStreamRequest> {
    const [samples, channels, height, ...rest] = this.rows.shape as [number, number, number];
    const rowBytes = channels * sizeOf(rest) * itemSize(this.rows.dtype);
    const atOnce = Math.max(1, Math.floor(CHUNK_BYTES / rowBytes));
    for (let start = row; start < samples * height;) {
      const stop = Math.min(start + atOnce, (Math.floor(start / height) + 1) * height);
      const bytes = await this.rows.read(start, stop);
      yield* chunksOf(bytes, (value) => create(ConvolveStreamRequestSchema, { message: { case: "data", value } }));
      start = stop;
    }
  }

  /**
   * Takes a later answer: the start of a band, or a part of its data.
   *
   * @returns the band that it completes.
   */
  take({ message }: ConvolveStreamResponse): Band | undefined {
    if (message.case === "band") {
      this.#begin(message.value);
      return undefined;
    }
    if (message.case !== "data" || !this.#band) {
      throw new DataLossError("the server sent a message that is neither a new band nor data of one");
    }
    if (this.#filled + message.value.length > this.#bytes.length) {
      throw new DataLossError(`the server sent more than the ${this.#bytes.length} bytes of the band`);
    }
    this.#bytes.set(message.value, this.#filled);
    this.#filled += message.value.length;
    return this.#filled === this.#bytes.length ? this.#finish(this.#band) : undefined;
  }

  /** Ends the source; nothing is sent after it. */
  close(): void {
    this.rows.close();
  }

  /** @throws DataLossError if rows are missing after the last answer. */
  ended(): void {
    const total = this.shape[0]! * this.shape[2]!;
    if (this.done !== total) throw new DataLossError(`the server sent ${this.done} of ${total} rows`);
  }

  #begin(band: StreamBand): void {
    const [start, stop] = [Number(band.start), Number(band.stop)];
    const total = this.shape[0]! * this.shape[2]!;
    if (this.#band || !(start >= 0 && start <= this.done && this.done < stop && stop <= total)) {
      throw new DataLossError(`the server sent rows ${start} to ${stop} after row ${this.done}`);
    }
    this.#band = band;
    this.#bytes = new Uint8Array((stop - start) * this.#rowSize * itemSize(this.dtype));
    this.#filled = 0;
  }

  #finish(band: StreamBand): Band {
    const [start, stop] = [this.done, Number(band.stop)]; // after a lost connection a band may begin before it
    const skipped = (start - Number(band.start)) * this.#rowSize * itemSize(this.dtype);
    const shape = [stop - start, this.shape[1]!, ...this.shape.slice(3)];
    const elements = new DTYPES[this.dtype].array(this.#bytes.buffer, skipped, sizeOf(shape));
    this.#band = undefined;
    this.done = stop;
    this.rows.forget(Number(band.nextInputRow));
    return { start, stop, rows: new Tensor(elements, shape, this.dtype) };
  }

  get #rowSize(): number {
    return this.shape[1]! * sizeOf(this.shape.slice(3));
  }
}
