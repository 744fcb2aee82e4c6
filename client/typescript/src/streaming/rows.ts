/**
 * Rows that a stream sends. Row n·H + h of a feature map (N, C, H, …) is row h of sample n. A row travels with all its
 * channels, so consecutive rows travel as an array (rows, C, …).
 */

import { supportedInput } from "../convolution/arguments.js";
import { InvalidArgumentError } from "../errors.js";
import { itemSize, type DType } from "../tensors/dtypes.js";
import { asTensor, sizeOf, Tensor, type TensorLike } from "../tensors/tensor.js";
import { tuple, Words } from "../text.js";
import { bytesOf } from "../wire/tensors.js";

/** What a stream sends: a whole feature map, or bands (C, rows, …) of one sample in order. */
export type StreamSource = TensorLike | AsyncIterable<TensorLike> | Iterable<TensorLike>;

/** Rows to send. */
export interface Rows {
  /** (N, C, H, …). */
  readonly shape: readonly number[];
  readonly dtype: DType;
  /** Whether the source has no batch axis. */
  readonly unbatched: boolean;
  /** The bytes of rows `start` to `stop` of one sample, as (rows, C, …). */
  read(start: number, stop: number): Promise<Uint8Array>;
  /** Rows before `row` will not be read again. */
  forget(row: number): void;
  /** No row will be read again: ends the iterator of a source. */
  close(): void;
}

/**
 * The rows of a source.
 *
 * @param shape of all bands together, (1, C, H, …) or (C, H, …); of an iterator alone.
 * @param kernel dtype of the first kernel.
 * @param rank number of spatial axes.
 * @throws InvalidArgumentError if the shape does not fit.
 */
export function rowsOf(
  source: StreamSource,
  shape: readonly number[] | undefined,
  dtype: DType | undefined,
  kernel: DType,
  rank: number,
): Rows {
  if (source instanceof Tensor || Array.isArray(source) || "data" in source) {
    return new RowsOfTensor(supportedInput(asTensor(source as TensorLike, "input"), kernel), rank);
  }
  if (shape === undefined) throw InvalidArgumentError.of("shape", "shape, and dtype, for an iterator of bands", shape);
  const whole = batched(shape, rank);
  const unbatched = shape.length === rank + 1;
  return new RowsOfBands(source as Iterable<TensorLike>, whole, unbatched, dtype ?? "float32", kernel);
}

function batched(shape: readonly number[], rank: number): readonly number[] {
  if (shape.length !== rank + 1 && shape.length !== rank + 2) {
    throw InvalidArgumentError.of("input.shape", `${rank + 2} dimensions, or ${rank + 1} for one sample`, shape);
  }
  return shape.length === rank + 1 ? [1, ...shape] : shape;
}

class RowsOfTensor implements Rows {
  readonly shape: readonly number[];
  readonly dtype: DType;
  readonly unbatched: boolean;
  readonly #bytes: Uint8Array;

  constructor(x: Tensor, rank: number) {
    this.shape = batched(x.shape, rank);
    this.unbatched = x.shape.length === rank + 1;
    this.dtype = x.dtype;
    this.#bytes = bytesOf(x);
  }

  async read(start: number, stop: number): Promise<Uint8Array> {
    const [, channels, height] = this.shape as [number, number, number];
    const sample = Math.floor(start / height);
    const first = start - sample * height;
    const line = lineBytes(this.shape, this.dtype);
    const rows = new Uint8Array((stop - start) * channels * line);
    gather(this.#bytes, sample * channels * height * line, [channels, height, line], first, rows, 0, stop - start);
    return rows;
  }

  forget(): void {
    // the tensor has every row
  }

  close(): void {
    // and keeps it
  }
}

class RowsOfBands implements Rows {
  readonly dtype: DType;
  readonly #bands: AsyncIterator<TensorLike> | Iterator<TensorLike>;
  readonly #given: DType;
  readonly #kernel: DType;
  #kept: { start: number; rows: number; bytes: Uint8Array }[] = [];
  #end = 0;

  constructor(
    bands: AsyncIterable<TensorLike> | Iterable<TensorLike>,
    readonly shape: readonly number[],
    readonly unbatched: boolean,
    dtype: DType,
    kernel: DType,
  ) {
    if (shape[0] !== 1) throw InvalidArgumentError.of("input.shape", "one sample, for an iterator of bands", shape);
    this.#bands = Symbol.asyncIterator in bands ? bands[Symbol.asyncIterator]() : bands[Symbol.iterator]();
    this.#given = dtype;
    this.#kernel = kernel;
    this.dtype = supportedInput(Tensor.zeros([0], dtype), kernel).dtype;
  }

  async read(start: number, stop: number): Promise<Uint8Array> {
    while (this.#end < stop) await this.#take();
    const line = lineBytes(this.shape, this.dtype);
    const channels = this.shape[1]!;
    const rows = new Uint8Array((stop - start) * channels * line);
    let at = start;
    for (const band of this.#kept) {
      const end = Math.min(stop, band.start + band.rows);
      if (band.start > at || end <= at) continue;
      const extents = [channels, band.rows, line] as const;
      gather(band.bytes, 0, extents, at - band.start, rows, (at - start) * channels * line, end - at);
      at = end;
    }
    if (at < stop) {
      throw InvalidArgumentError.of("input", `row ${at} again, to resume`, new Words("an iterator that is past it"));
    }
    return rows;
  }

  forget(row: number): void {
    this.#kept = this.#kept.filter((band) => band.start + band.rows > row);
  }

  close(): void {
    void Promise.resolve(this.#bands.return?.()).catch(() => undefined); // the stream has ended: nobody asks how
  }

  async #take(): Promise<void> {
    const next = await this.#bands.next();
    const [, channels, height, ...rest] = this.shape as [number, number, number];
    if (next.done) {
      throw InvalidArgumentError.of("input", `bands of ${height} rows in all`, new Words(`${this.#end} rows`));
    }
    let band = asTensor(next.value, "input");
    if (band.shape.length === this.shape.length && band.shape[0] === 1) band = band.reshape(band.shape.slice(1));
    if (band.dtype !== this.#given) throw InvalidArgumentError.of("input.dtype", this.#given, band.dtype);
    if (tuple([band.shape[0], ...band.shape.slice(2)]) !== tuple([channels, ...rest])) {
      const expected = `bands (${channels}, rows, …) of shape ${tuple(this.shape)}`;
      throw InvalidArgumentError.of("input", expected, band.shape);
    }
    band = supportedInput(band, this.#kernel);
    this.#kept.push({ start: this.#end, rows: band.shape[1]!, bytes: bytesOf(band) });
    this.#end += band.shape[1]!;
  }
}

/** Bytes of one row of one channel. */
function lineBytes(shape: readonly number[], dtype: DType): number {
  return sizeOf(shape.slice(3)) * itemSize(dtype);
}

/** Copies rows of (C, H, line) bytes, from row `first` on, as (rows, C, line). */
function gather(
  source: Uint8Array,
  offset: number,
  [channels, height, line]: readonly [number, number, number],
  first: number,
  target: Uint8Array,
  at: number,
  count: number,
): void {
  for (let row = 0; row < count; row++) {
    for (let channel = 0; channel < channels; channel++) {
      const from = offset + (channel * height + first + row) * line;
      target.set(source.subarray(from, from + line), at + (row * channels + channel) * line);
    }
  }
}
